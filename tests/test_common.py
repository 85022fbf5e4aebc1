"""Every check of the contract on every meta-learner."""

from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.naive_bayes import GaussianNB

import sklmeta
from sklmeta import (
    ABMLClassifier,
    ABMLRegressor,
    ANILClassifier,
    ANILRegressor,
    BayesianLinearNetRegressor,
    CAVIAClassifier,
    CAVIARegressor,
    DeepKernelClassifier,
    DeepKernelRegressor,
    FineTuneClassifier,
    FineTuneRegressor,
    HierarchicalLinearRegressor,
    HierarchicalLogisticClassifier,
    ImplicitMAMLClassifier,
    ImplicitMAMLRegressor,
    InContextClassifier,
    InContextRegressor,
    MAMLClassifier,
    MAMLRegressor,
    MANNClassifier,
    MANNRegressor,
    MatchingNetClassifier,
    MetaBaselineClassifier,
    MetaSGDClassifier,
    MetaSGDRegressor,
    MetaTransferClassifier,
    NeuralProcessClassifier,
    NeuralProcessRegressor,
    PerTaskClassifier,
    PerTaskRegressor,
    PLDAClassifier,
    PooledClassifier,
    PooledRegressor,
    ProbabilisticMAMLClassifier,
    ProbabilisticMAMLRegressor,
    ProtoNetClassifier,
    RecurrentNetClassifier,
    RecurrentNetRegressor,
    RelationNetClassifier,
    ReptileClassifier,
    ReptileRegressor,
    RidgeNetClassifier,
    RidgeNetRegressor,
    SimpleShotClassifier,
    TransductiveProtoNetClassifier,
)
from sklmeta.backbones import MLP
from sklmeta.base import BaseMetaLearner
from sklmeta.utils.learner_checks import parametrize_with_meta_checks


def small_backbone(input_shape):
    return MLP(input_shape[0], (32,))


SMALL_NEURAL_PROCESS = {
    "hidden_size": 64,
    "encoder_depth": 2,
    "decoder_depth": 2,
    "n_heads": 4,
    "outer_lr": 3e-3,
}
SMALL_TRANSFORMER = {
    "hidden_size": 32,
    "n_layers": 2,
    "encoder_depth": 2,
    "outer_lr": 3e-3,
}

ESTIMATORS = [
    ABMLClassifier(
        inner_lr=0.3,
        inner_steps=2,
        n_samples=5,
        n_train_samples=1,
        kl_weight=0.01,
        max_iter=200,
        outer_lr=5e-3,
    ),
    ABMLRegressor(
        small_backbone,
        inner_lr=0.1,
        inner_steps=8,
        n_samples=30,
        kl_weight=0.5,
        initial_std=0.1,
        max_iter=200,
        outer_lr=1e-2,
    ),
    ANILClassifier(max_iter=200, outer_lr=5e-3),
    ANILRegressor(small_backbone, max_iter=200, outer_lr=5e-3),
    BayesianLinearNetRegressor(max_iter=150, outer_lr=5e-3),
    CAVIAClassifier(n_context=10, inner_steps=2, max_iter=200, outer_lr=5e-3),
    CAVIARegressor(max_iter=200, outer_lr=5e-3),
    DeepKernelClassifier(max_iter=60, outer_lr=5e-3),
    DeepKernelRegressor(max_iter=100, outer_lr=5e-3),
    DeepKernelRegressor(mean=Ridge(), max_iter=100, outer_lr=5e-3),
    FineTuneClassifier(max_iter=200, outer_lr=5e-3),
    FineTuneClassifier(head="cosine", temperature=0.3, max_iter=400, outer_lr=5e-3),
    FineTuneClassifier(
        small_backbone,
        layers="all",
        inner_steps=20,
        weight_decay=0.1,
        max_iter=200,
        outer_lr=5e-3,
    ),
    FineTuneRegressor(
        small_backbone, layers="all", weight_decay=0.03, max_iter=200, outer_lr=5e-3
    ),
    ImplicitMAMLClassifier(
        inner_lr=0.5,
        inner_steps=10,
        regularization=0.2,
        cg_steps=3,
        max_iter=200,
        outer_lr=5e-3,
    ),
    ImplicitMAMLRegressor(
        small_backbone,
        inner_lr=0.05,
        inner_steps=5,
        regularization=0.5,
        cg_steps=3,
        max_iter=200,
        outer_lr=5e-3,
    ),
    InContextClassifier(max_iter=200, **SMALL_TRANSFORMER),
    InContextRegressor(max_iter=600, **SMALL_TRANSFORMER),
    MAMLClassifier(inner_lr=0.3, inner_steps=2, max_iter=200, outer_lr=5e-3),
    MAMLRegressor(
        small_backbone, inner_lr=0.05, inner_steps=2, max_iter=200, outer_lr=5e-3
    ),
    MatchingNetClassifier(max_iter=60, outer_lr=3e-3),
    MatchingNetClassifier(
        small_backbone,
        metric="sqeuclidean",
        learn_temperature=True,
        context_embeddings=True,
        n_processing_steps=2,
        max_iter=60,
        outer_lr=3e-3,
    ),
    MetaBaselineClassifier(pretrain_iter=100, max_iter=60, outer_lr=3e-3),
    MetaSGDClassifier(max_iter=200, outer_lr=5e-3),
    MetaSGDRegressor(small_backbone, max_iter=200, outer_lr=5e-3),
    MetaTransferClassifier(pretrain_iter=100, max_iter=300, outer_lr=2e-2),
    MANNClassifier(
        hidden_size=100,
        memory_size=20,
        memory_width=20,
        n_reads=2,
        max_iter=600,
        batch_size=32,
        outer_lr=3e-3,
    ),
    MANNRegressor(
        hidden_size=64,
        memory_size=20,
        memory_width=16,
        n_reads=2,
        max_iter=600,
        outer_lr=3e-3,
    ),
    RecurrentNetClassifier(hidden_size=100, max_iter=800, batch_size=32, outer_lr=3e-3),
    RecurrentNetRegressor(hidden_size=64, max_iter=600, outer_lr=3e-3),
    NeuralProcessClassifier(max_iter=200, **SMALL_NEURAL_PROCESS),
    NeuralProcessRegressor(max_iter=600, **SMALL_NEURAL_PROCESS),
    NeuralProcessRegressor(
        latent=True,
        n_samples=5,
        n_train_samples=1,
        max_iter=400,
        **SMALL_NEURAL_PROCESS,
    ),
    ProbabilisticMAMLClassifier(
        inner_lr=0.3, inner_steps=2, n_samples=5, max_iter=200, outer_lr=5e-3
    ),
    ProbabilisticMAMLRegressor(
        small_backbone, inner_lr=0.05, inner_steps=2, max_iter=200, outer_lr=5e-3
    ),
    ProtoNetClassifier(max_iter=60, outer_lr=3e-3),
    ProtoNetClassifier(metric="cosine", max_iter=60, outer_lr=3e-3),
    ProtoNetClassifier(
        metric="mahalanobis", learn_temperature=True, max_iter=60, outer_lr=3e-3
    ),
    RelationNetClassifier(relation_width=128, max_iter=300, outer_lr=5e-3),
    ReptileClassifier(inner_steps=20, max_iter=200),
    ReptileRegressor(small_backbone, inner_steps=20, max_iter=200),
    RidgeNetClassifier(max_iter=100, outer_lr=5e-3),
    RidgeNetRegressor(max_iter=200, outer_lr=5e-3),
    # Centring at the mean of all rows, "cl2", is no gain on these tasks.
    PLDAClassifier(),
    SimpleShotClassifier(transform="l2"),
    TransductiveProtoNetClassifier(max_iter=60, outer_lr=3e-3),
    # Logistic regression would take long to tell 600 meta-training classes apart.
    PooledClassifier(LinearDiscriminantAnalysis()),
    HierarchicalLinearRegressor(),
    HierarchicalLogisticClassifier(),
    PooledRegressor(),
    PerTaskClassifier(GaussianNB()),
    PerTaskRegressor(),
]


@parametrize_with_meta_checks(ESTIMATORS)
def test_meta_learner(estimator, check):
    check(estimator)


def test_every_public_meta_learner_is_checked():
    public = [getattr(sklmeta, name) for name in sklmeta.__all__]
    learners = {
        item
        for item in public
        if isinstance(item, type) and issubclass(item, BaseMetaLearner)
    }
    assert learners == {type(estimator) for estimator in ESTIMATORS}
