"""Meta-learning with scikit-learn's verbs: fit on many tasks, adapt to a new one."""

from sklmeta.baselines import (
    PerTaskClassifier,
    PerTaskRegressor,
    PooledClassifier,
    PooledRegressor,
)
from sklmeta.closed_form import (
    BayesianLinearNetRegressor,
    DeepKernelClassifier,
    DeepKernelRegressor,
    HierarchicalLinearRegressor,
    HierarchicalLogisticClassifier,
    RidgeNetClassifier,
    RidgeNetRegressor,
)
from sklmeta.exceptions import (
    MetaTrainingError,
    SmallTaskWarning,
    TaskLeakageWarning,
)
from sklmeta.fewshot import FewShotClassifier, FewShotRegressor
from sklmeta.gradient import (
    ANILClassifier,
    ANILRegressor,
    CAVIAClassifier,
    CAVIARegressor,
    ImplicitMAMLClassifier,
    ImplicitMAMLRegressor,
    MAMLClassifier,
    MAMLRegressor,
    MetaSGDClassifier,
    MetaSGDRegressor,
    ReptileClassifier,
    ReptileRegressor,
)
from sklmeta.hausdorff import ModifiedHausdorffClassifier
from sklmeta.memory import (
    MANNClassifier,
    MANNRegressor,
    RecurrentNetClassifier,
    RecurrentNetRegressor,
)
from sklmeta.metric import (
    MatchingNetClassifier,
    PLDAClassifier,
    ProtoNetClassifier,
    RelationNetClassifier,
    SimpleShotClassifier,
    TransductiveProtoNetClassifier,
)
from sklmeta.pipeline import MetaPipeline, TaskTransformer, make_meta_pipeline
from sklmeta.probabilistic import (
    ABMLClassifier,
    ABMLRegressor,
    InContextClassifier,
    InContextRegressor,
    NeuralProcessClassifier,
    NeuralProcessRegressor,
    ProbabilisticMAMLClassifier,
    ProbabilisticMAMLRegressor,
)
from sklmeta.tasks import (
    ClassPool,
    Task,
    TaskDistribution,
    TaskSet,
    ValidationTasks,
)
from sklmeta.transfer import (
    FineTuneClassifier,
    FineTuneRegressor,
    MetaBaselineClassifier,
    MetaTransferClassifier,
)

__version__ = "0.1.0"

__all__ = [
    "ABMLClassifier",
    "ABMLRegressor",
    "ANILClassifier",
    "ANILRegressor",
    "BayesianLinearNetRegressor",
    "CAVIAClassifier",
    "CAVIARegressor",
    "ClassPool",
    "DeepKernelClassifier",
    "DeepKernelRegressor",
    "FewShotClassifier",
    "FewShotRegressor",
    "FineTuneClassifier",
    "FineTuneRegressor",
    "HierarchicalLinearRegressor",
    "HierarchicalLogisticClassifier",
    "ImplicitMAMLClassifier",
    "ImplicitMAMLRegressor",
    "InContextClassifier",
    "InContextRegressor",
    "MAMLClassifier",
    "MAMLRegressor",
    "MANNClassifier",
    "MANNRegressor",
    "MatchingNetClassifier",
    "MetaBaselineClassifier",
    "MetaPipeline",
    "MetaSGDClassifier",
    "MetaSGDRegressor",
    "MetaTrainingError",
    "MetaTransferClassifier",
    "ModifiedHausdorffClassifier",
    "NeuralProcessClassifier",
    "NeuralProcessRegressor",
    "PLDAClassifier",
    "PerTaskClassifier",
    "PerTaskRegressor",
    "PooledClassifier",
    "PooledRegressor",
    "ProbabilisticMAMLClassifier",
    "ProbabilisticMAMLRegressor",
    "ProtoNetClassifier",
    "RecurrentNetClassifier",
    "RecurrentNetRegressor",
    "RelationNetClassifier",
    "ReptileClassifier",
    "ReptileRegressor",
    "RidgeNetClassifier",
    "RidgeNetRegressor",
    "SimpleShotClassifier",
    "SmallTaskWarning",
    "Task",
    "TaskDistribution",
    "TaskLeakageWarning",
    "TaskSet",
    "TaskTransformer",
    "TransductiveProtoNetClassifier",
    "ValidationTasks",
    "make_meta_pipeline",
]
