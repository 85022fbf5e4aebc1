"""Every check of the contract on every meta-learner."""

from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB

import sklmeta
from sklmeta import (
    ANILClassifier,
    ANILRegressor,
    CAVIAClassifier,
    CAVIARegressor,
    HierarchicalLinearRegressor,
    HierarchicalLogisticClassifier,
    ImplicitMAMLClassifier,
    ImplicitMAMLRegressor,
    MAMLClassifier,
    MAMLRegressor,
    MANNClassifier,
    MANNRegressor,
    MatchingNetClassifier,
    MetaSGDClassifier,
    MetaSGDRegressor,
    PerTaskClassifier,
    PerTaskRegressor,
    PLDAClassifier,
    PooledClassifier,
    PooledRegressor,
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


ESTIMATORS = [
    ANILClassifier(max_iter=200, outer_lr=5e-3),
    ANILRegressor(small_backbone, max_iter=200, outer_lr=5e-3),
    CAVIAClassifier(n_context=10, inner_steps=2, max_iter=200, outer_lr=5e-3),
    CAVIARegressor(max_iter=200, outer_lr=5e-3),
    ImplicitMAMLClassifier(
        inner_lr=0.5,
        inner_steps=5,
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
    MetaSGDClassifier(max_iter=200, outer_lr=5e-3),
    MetaSGDRegressor(small_backbone, max_iter=200, outer_lr=5e-3),
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
