"""Classifiers on features of a backbone that was trained elsewhere: their verbs.

They take a pass over the rows of tasks, and train nothing by gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from torch import nn

from sklmeta import _leakage
from sklmeta._adapted import TorchModel
from sklmeta._parameters import filled_in, resolve_device
from sklmeta._preparation import Preparation, Settings
from sklmeta._row_episodes import scoring_spec
from sklmeta._scores import MeanAccuracy, PooledR2, score_tasks
from sklmeta._signatures import spell_out
from sklmeta._supports import predict_supports
from sklmeta._task_rows import representative
from sklmeta.backbones.build import build_backbone, feature_size
from sklmeta.backbones.normalization import mixes_rows
from sklmeta.base import BaseMetaLearner, MetaClassifierMixin
from sklmeta.engine.inference import moved_to, on_cpu
from sklmeta.engine.learner import Learner
from sklmeta.engine.pool import RowPool
from sklmeta.metric._fixed_backbone import as_prepared_by
from sklmeta.tasks import ClassPool, TaskSet, as_tasks

__all__ = [
    "FixedBackboneClassifier",
    "FixedBackboneParameters",
    "with_fixed_backbone_parameters",
]

FIXED_BACKBONE = """\
backbone : torch.nn.Module, callable, fitted meta-learner or "identity", \
default="identity"
    Where features come from: a torch module with the weights that it has, a function
    that returns one for the shape of a row ((n_features,), or (channels, height, width)
    for images), a fitted meta-learner that compares features, such as
    `ProtoNetClassifier`, or "identity" for rows that are features already. Rows pass a
    fitted meta-learner's backbone scaled as it scales them, and other modules as they
    are (uint8 images scaled to [0, 1]).
"""

EPISODES_OF_SCORE = """\
n_way : int, (int, int) or None, default=None
    Ways of the episodes of `score`, with local labels: a number, a range drawn per
    episode, or None for all classes of the task (5 for a `ClassPool`).

n_shot : int or (int, int), default=5
    Support rows of the episodes of `score`: per class with local labels, per task with
    shared labels.

support_order : {"random", "first"}, default="random"
    "first" takes the first `n_shot` rows of a task as support and only later rows as
    query, for data in time order.

small_tasks : {"shrink", "drop", "raise"}, default="shrink"
    What `score` does with tasks that have no query row left after `n_shot` support
    rows: use fewer support rows, leave the task out, or refuse.

image_shape : tuple of int, default=None
    (H, W) or (H, W, C): rows of `X` are flattened images of that shape. None takes that
    of a fitted meta-learner given as `backbone`.

device : str or torch.device, default="auto"
    Where to compute; "auto" is "cuda" where there is one, else "cpu".

random_state : int, RandomState instance or None, default=None
    Seed of what a callable given as `backbone` draws, and of the sample of a
    TaskDistribution. An int also seeds the episodes of `score`.
"""

FIXED_ATTRIBUTES = """\
n_features_in_ : int
    Number of features seen during `fit`.

feature_names_in_ : ndarray of shape (n_features_in_,)
    Names of the features; only if `X` had string column names.

adapted_ : few-shot estimator
    What the last `adapt` returned; `predict` uses it.

classes_ : ndarray of shape (n_classes,)
    Shared labels; with local labels, each adapted estimator has its own.
"""

with_fixed_backbone_parameters = partial(
    filled_in,
    texts={
        "<fixed backbone>": FIXED_BACKBONE,
        "<parameters of score>": EPISODES_OF_SCORE,
        "<fixed attributes>": FIXED_ATTRIBUTES,
    },
)


class FixedBackboneParameters(TypedDict, total=False):
    """What `FixedBackboneClassifier` takes, for subclasses that pass it on by name."""

    n_way: Any
    n_shot: Any
    support_order: str
    small_tasks: str
    image_shape: Any
    device: Any
    random_state: Any


class FixedBackboneClassifier(MetaClassifierMixin, BaseMetaLearner):
    """Base of the classifiers that train no backbone.

    Subclasses have `_learned`, which makes the torch learner.
    """

    _preparation: Preparation
    _learner: Learner

    _exempt_parameters = (*BaseMetaLearner._exempt_parameters, "device")

    def __init__(
        self,
        backbone: Any = "identity",
        *,
        n_way: Any = None,
        n_shot: Any = 5,
        support_order: str = "random",
        small_tasks: str = "shrink",
        image_shape: Any = None,
        device: Any = "auto",
        random_state: Any = None,
    ) -> None:
        self.backbone = backbone
        self.n_way = n_way
        self.n_shot = n_shot
        self.support_order = support_order
        self.small_tasks = small_tasks
        self.image_shape = image_shape
        self.device = device
        self.random_state = random_state

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        spell_out(cls, FixedBackboneClassifier)

    def _learned(
        self, backbone: nn.Module, n_outputs: int | None, pool: RowPool
    ) -> Learner:
        """Return the torch learner, with what it takes from the rows of tasks."""
        raise NotImplementedError

    def __sklearn_clone__(self) -> Self:
        copied = super().__sklearn_clone__()
        copied.backbone = self.backbone  # a fitted meta-learner keeps its weights
        return copied

    def _check_parameters(self) -> None:
        super()._check_parameters()
        resolve_device(self.device)
        if self.backbone is None:
            raise TypeError(
                f"{type(self).__name__} trains no backbone, so that backbone=None, the "
                "untrained default net of other meta-learners, makes no sense. Give a "
                "module with weights, a fitted meta-learner, or 'identity'."
            )

    # Learning ----------------------------------------------------------------------

    def fit(
        self, X: Any, y: ArrayLike | None = None, *, groups: ArrayLike | None = None
    ) -> Self:
        """Take one pass over the rows of tasks.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form; rows of shape (n_samples, n_features) in long format. A
            TaskDistribution is sampled once, 200 tasks.
        y : array-like of shape (n_samples,), default=None
            Labels; long format only.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        NotFittedError
            If a meta-learner given as `backbone` is not fitted.
        TypeError, ValueError
            If tasks or parameters are not usable; the message names the task.
        """
        self._check_parameters()
        state = check_random_state(self.random_state)
        sample_seed, seed = state.randint(np.iinfo(np.int32).max, size=2).tolist()
        tasks = representative(as_tasks(X, y, groups), sample_seed)
        preparation, backbone = self._prepared(tasks, seed)
        scoring_spec(self, preparation)  # refuses wrong counts
        device = resolve_device(self.device)
        backbone = backbone.requires_grad_(False).eval().to(device)
        pool = preparation.pool(tasks, device)
        learner = self._learned(backbone, preparation.n_outputs, pool).eval().to(device)
        # Who learns nothing from tasks can be scored on them.
        learns = self.__sklmeta_tags__().learns_from_tasks
        self._keep_learned(preparation, _leakage.fingerprints(tasks) if learns else {})
        self._learner = learner
        return self

    def _prepared(
        self, tasks: TaskSet | ClassPool, seed: int
    ) -> tuple[Preparation, nn.Module]:
        """Return how rows are prepared, and a backbone of our own for them."""
        given, shape = self.backbone, self.image_shape
        settings = Settings(
            type(self).__name__,
            classifies=True,
            image_shape=None if shape is None else tuple(shape),
            normalize_x=False,
        )
        if isinstance(given, BaseMetaLearner):
            return as_prepared_by(given, settings, tasks)
        preparation = Preparation.learn(settings, tasks)
        backbone = build_backbone(given, preparation.input_shape, seed=seed).eval()
        feature_size(backbone, preparation.input_shape)  # refuses what gives none
        if mixes_rows(backbone):
            raise ValueError(
                "The backbone has batch normalisation without running averages, so "
                "that features of a row would depend on the other rows. Use layers "
                "with track_running_stats=True."
            )
        return preparation, backbone

    # Adapting, predicting, judging -----------------------------------------------

    def _adapted_model(
        self, X: Any, y: NDArray[Any], classes: NDArray[Any] | None
    ) -> TorchModel:
        return TorchModel.of_support(self, X, y, classes)

    def _predict_supports(
        self, tasks: TaskSet, query_Xs: Sequence[ArrayLike]
    ) -> list[NDArray[Any]]:
        self._refuse_changed_parameters()
        return predict_supports(self, tasks, query_Xs)

    def _score_tasks(
        self, tasks: TaskSet | ClassPool, seed: int, total: MeanAccuracy | PooledR2
    ) -> None:
        self._refuse_changed_parameters()
        score_tasks(self, tasks, seed, total)

    def _configured_learner(self) -> Learner:
        """Return the learner with the adaptation parameters as they are now."""
        learner = moved_to(self._learner, resolve_device(self.device))
        names = learner.adaptation_options
        return learner.with_options(**{name: getattr(self, name) for name in names})

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle: CPU tensors."""
        state = dict(super().__getstate__())
        if "_learner" in state:
            state["_learner"] = on_cpu(state["_learner"])
        return state
