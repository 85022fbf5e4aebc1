"""The estimator contract: fit on tasks, adapt to a new one, predict its rows."""

from __future__ import annotations

import copy
import numbers
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from skorch.history import History
from torch import nn
from torch.utils import _pytree as pytree

from sklmeta import _leakage, _meta_training, _scores
from sklmeta._meta_training import Seeds, representative
from sklmeta._parameters import check_choice, check_common_parameters, resolve_device
from sklmeta._preparation import Preparation
from sklmeta._supports import predict_supports
from sklmeta.engine.learner import Learner
from sklmeta.engine.training import TrainingResult
from sklmeta.fewshot import FewShotClassifier, FewShotRegressor
from sklmeta.tasks import TaskSet, as_tasks

__all__ = ["BaseMetaLearner", "MetaClassifierMixin", "MetaRegressorMixin"]


class BaseMetaLearner(BaseEstimator):
    """Base of the meta-learners that train by gradients on episodes.

    Subclasses add their parameters, `_make_learner`, and one of the two mixins.
    """

    _classifies: ClassVar[bool]
    learner_: Learner
    history_: History
    n_iter_: int
    n_features_in_: int
    _preparation: Preparation
    _optimizer_state: dict[str, Any] | None
    _seen_tasks: dict[Any, bytes]
    _trained_with: dict[str, Any]

    # Parameters that act when adapting; all others only in meta-training.
    _adaptation_parameters: ClassVar[tuple[str, ...]] = ()
    # What to lower when meta-training diverges.
    _step_sizes: ClassVar[tuple[str, ...]] = ("outer_lr",)
    # Built into the learner or its preparation by the first fit.
    _structural_parameters: ClassVar[tuple[str, ...]] = (
        *("backbone", "head", "image_shape", "normalize_x", "normalize_y"),
        "transductive",
    )
    # Changed freely after meta-training: they shape episodes, or are set by wrappers.
    _exempt_parameters: ClassVar[tuple[str, ...]] = (
        *("random_state", "device", "verbose", "n_shot", "n_way", "n_query"),
        *("support_order", "small_tasks", "max_iter", "warm_start", "callbacks"),
    )

    __metadata_request__fit: ClassVar[dict[str, Any]] = {"groups": True}
    __metadata_request__partial_fit: ClassVar[dict[str, Any]] = {"groups": True}
    __metadata_request__score: ClassVar[dict[str, Any]] = {"groups": True}

    def __init__(
        self,
        backbone: Any = None,
        *,
        n_way: Any = None,
        n_shot: Any = 5,
        n_query: Any = 15,
        support_order: str = "random",
        small_tasks: str = "shrink",
        image_shape: Any = None,
        normalize_x: bool = True,
        outer_lr: float = 1e-3,
        optimizer: Any = "adam",
        batch_size: int = 16,
        max_iter: int = 1000,
        eval_every: int = 100,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        callbacks: Any = None,
        device: Any = "auto",
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.backbone = backbone
        self.n_way = n_way
        self.n_shot = n_shot
        self.n_query = n_query
        self.support_order = support_order
        self.small_tasks = small_tasks
        self.image_shape = image_shape
        self.normalize_x = normalize_x
        self.outer_lr = outer_lr
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.eval_every = eval_every
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.callbacks = callbacks
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    # What subclasses say ---------------------------------------------------------

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        generator: torch.Generator,
    ) -> Learner:
        """Return a new torch learner on `backbone`, which gives `n_features`."""
        raise NotImplementedError

    def _check_parameters(self) -> None:
        """Raise TypeError or ValueError if a parameter is not usable."""
        check_common_parameters(self)
        resolve_device(self.device)

    # Meta-training ---------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        validation_tasks: Any = None,
    ) -> Self:
        """Meta-train on tasks.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form; rows of shape (n_samples, n_features) in long format.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; long format only.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.
        validation_tasks : tasks in any form, default=None
            Held-out tasks for early stopping. Wrap them as `ValidationTasks(tasks)`
            inside scikit-learn's searches.

        Returns
        -------
        self : object
            The meta-trained estimator.

        Raises
        ------
        ValueError
            If tasks or parameters are not usable; the message names the task.
        MetaTrainingError
            If the meta-loss stops being finite. What was learned before is kept.
        """
        goes_on = self.warm_start and hasattr(self, "learner_")
        seeds = self._start(goes_on)
        tasks = as_tasks(X, y, groups)
        sample = representative(tasks, seeds.held_out)
        preparation, learner = self._prepared(sample, None, seeds, goes_on)
        train_tasks, held_out = _meta_training.split_held_out(
            self, tasks, validation_tasks, seeds.held_out
        )
        stream = _meta_training.training_episodes(
            self, train_tasks, preparation, seeds.episodes
        )
        validation = _meta_training.fixed_episodes(
            self, held_out, preparation, seeds.held_out
        )
        seen = _leakage.fingerprints(train_tasks)
        state = _meta_training.resumed_optimizer(self) if goes_on else None
        result = _meta_training.train(
            self, learner, stream, validation, state, self.max_iter, seeds.dropout
        )
        return self._install(preparation, learner, result, seen, goes_on)

    def partial_fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Meta-train for one pass over the given tasks, going on from the last call.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form, as in `fit`; a TaskDistribution gives one meta-update.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; long format only.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.
        classes : array-like of shape (n_classes,), default=None
            All shared labels that later calls can hold; read on the first call.

        Returns
        -------
        self : object
            The meta-trained estimator.

        Raises
        ------
        ValueError
            If tasks or parameters are not usable; the message names the task.
        MetaTrainingError
            If the meta-loss stops being finite. What was learned before is kept.
        """
        goes_on = hasattr(self, "learner_")
        seeds = self._start(goes_on)
        tasks = as_tasks(X, y, groups)
        sample = representative(tasks, seeds.held_out)
        preparation, learner = self._prepared(sample, classes, seeds, goes_on)
        batches = _meta_training.one_pass(self, tasks, preparation, seeds.episodes)
        seen = _leakage.fingerprints(tasks)
        state = _meta_training.resumed_optimizer(self) if goes_on else None
        result = _meta_training.train(
            self, learner, iter(batches), None, state, len(batches), seeds.dropout
        )
        return self._install(preparation, learner, result, seen, goes_on)

    def _start(self, goes_on: bool) -> Seeds:
        """Check parameters before anything is drawn; return the seeds of this call."""
        self._check_parameters()
        seeds = Seeds.of(self.random_state)
        if goes_on:
            self._refuse_changes_of(self._structural_parameters, "in the first fit")
            # Each call draws its own episodes.
            seeds.episodes = (seeds.episodes + self.n_iter_) % 2**31
        return seeds

    def _prepared(
        self, tasks: Any, classes: ArrayLike | None, seeds: Seeds, goes_on: bool
    ) -> tuple[Preparation, Learner]:
        """Return how rows are prepared and the learner to train: new, or a copy."""
        if goes_on:
            preparation = self._preparation
            preparation.check_width(self, tasks.rows())
            learner = copy.deepcopy(self._configured_learner())
        else:
            preparation = _meta_training.learn_preparation(self, tasks, classes)
            learner = _meta_training.new_learner(self, preparation, seeds.weights)
        _meta_training.episode_spec(self, preparation)  # refuses wrong counts
        return preparation, learner

    def _install(
        self,
        preparation: Preparation,
        learner: Learner,
        result: TrainingResult,
        seen: dict[Any, bytes],
        goes_on: bool,
    ) -> Self:
        """Set the fitted attributes, all at once and only when nothing failed."""
        history = copy.deepcopy(self.history_) if goes_on else type(result.history)()
        for row in result.history:
            history.append({**row, "epoch": len(history) + 1})
        self.learner_ = learner
        self.history_ = history
        self.n_iter_ = (self.n_iter_ if goes_on else 0) + result.n_updates
        self.n_features_in_ = preparation.n_features_in
        for name, value in (
            ("feature_names_in_", preparation.feature_names),
            ("classes_", preparation.classes),
        ):
            if value is not None:
                setattr(self, name, value)
            elif hasattr(self, name):
                delattr(self, name)
        self._preparation = preparation
        self._optimizer_state = result.optimizer_state
        self._trained_with = self.get_params(deep=False)
        # What is scored is compared with it, to warn of leakage.
        self._seen_tasks = {**self._seen_tasks, **seen} if goes_on else seen
        self.__dict__.pop("adapted_", None)
        if result.interrupted is not None:
            raise result.interrupted
        return self

    # Adapting and predicting -----------------------------------------------------

    def adapt(self, X_support: ArrayLike, y_support: ArrayLike) -> Any:
        """Adapt to a new task.

        Parameters
        ----------
        X_support : array-like of shape (n_support, n_features) or images
            Rows of the new task.
        y_support : array-like of shape (n_support,) or (n_support, n_outputs)
            Their labels or targets.

        Returns
        -------
        FewShotClassifier or FewShotRegressor
            A fitted estimator for this task, independent of what is done to this
            meta-learner later; also kept as `adapted_`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the rows do not fit the meta-training tasks.
        """
        check_is_fitted(self, "learner_")
        self._check_parameters()
        self.adapted_ = self._adapted_to(X_support, y_support)
        return self.adapted_

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict rows of the task that was adapted to last.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            Rows of that task.

        Returns
        -------
        ndarray of shape (n_query,) or (n_query, n_outputs)
            Labels or numbers.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        """
        return self._last_adapted().predict(X)

    def predict_tasks(
        self, support_tasks: Any, query_Xs: Sequence[ArrayLike]
    ) -> list[NDArray[Any]]:
        """Adapt to many tasks and predict rows of each, in one vectorised pass.

        Parameters
        ----------
        support_tasks : TaskSet or list of tasks
            Support rows of each task.
        query_Xs : list of array-like of shape (n_query, n_features) or images
            Query rows, one entry per task.

        Returns
        -------
        list of ndarray of shape (n_query,) or (n_query, n_outputs)
            The predictions for each entry of `query_Xs`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the rows do not fit the meta-training tasks; the message names the task.
        """
        check_is_fitted(self, "learner_")
        self._check_parameters()
        tasks = as_tasks(support_tasks)
        if not isinstance(tasks, TaskSet):
            raise TypeError(
                "support_tasks must be a TaskSet or a list of tasks, got "
                f"{type(tasks).__name__}."
            )
        self._preparation.check_width(self, tasks.rows())
        return predict_supports(self, tasks, query_Xs)

    def _adapted_to(self, X: ArrayLike, y: ArrayLike) -> Any:
        """Return the few-shot estimator of this meta-learner, fitted to rows."""
        raise NotImplementedError

    def _last_adapted(self) -> Any:
        check_is_fitted(self, "learner_")
        if not hasattr(self, "adapted_"):
            raise NotFittedError(
                f"This {type(self).__name__} is not adapted to a task yet. Call "
                "adapt(X_support, y_support) with some labelled rows of the task "
                "first, or use score or sklmeta's episode scorers, which adapt to "
                "each task by themselves."
            )
        return self.adapted_

    def _configured_learner(self) -> Learner:
        """Return the learner with the adaptation parameters as they are now."""
        names = self.learner_.adaptation_options
        # A pickle holds CPU tensors, whatever the device it is used on later.
        learner = _meta_training.moved_to(self.learner_, resolve_device(self.device))
        return learner.with_options(**{n: getattr(self, n) for n in names})

    def _own_copy(self) -> Self:
        """Return a copy that shares the immutable weights and owns its parameters."""
        own = object.__new__(type(self))
        own.__dict__.update(self.__dict__)
        own.__dict__.pop("adapted_", None)
        for name, value in self.get_params(deep=False).items():
            if isinstance(value, BaseEstimator):
                setattr(own, name, clone(value))
        return own

    def _refuse_changed_parameters(self) -> None:
        """Refuse meta-training parameters that changed since meta-training."""
        free = {*self._adaptation_parameters, *self._exempt_parameters}
        names = [name for name in self.get_params(deep=False) if name not in free]
        self._refuse_changes_of(names, "in meta-training only")

    def _refuse_changes_of(self, names: Sequence[str], when: str) -> None:
        for name in names:
            if name not in self._trained_with:
                continue  # not a parameter of this learner
            now, before = getattr(self, name), self._trained_with[name]
            if now is before or _same(now, before):
                continue
            raise ValueError(
                f"{name}={now!r} acts {when}, and this {type(self).__name__} was "
                f"meta-trained with {name}={before!r}. Set it back, or meta-train anew "
                "with fit on tasks (where a search over tasks can tune it)."
            )

    # Judging ---------------------------------------------------------------------

    def score(
        self,
        X: Any,
        y: ArrayLike | None = None,
        sample_weight: None = None,
        *,
        groups: ArrayLike | None = None,
    ) -> float:
        """Adapt to support rows of each task and score the predictions of the rest.

        Support rows are drawn by the estimator's `n_shot`, `n_way`, `support_order` and
        `small_tasks`, seeded by `random_state` (0 unless an int) and the task's name.
        A ClassPool gives 200 fixed episodes, a TaskDistribution 200 tasks.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; long format only.
        sample_weight : None
            Refused: tasks weigh the same.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.

        Returns
        -------
        float
            Classifiers: accuracy, mean over tasks. Regressors: 1 - SSE / sum of
            squares about each task's own query mean, pooled over tasks.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If tasks are not usable; the message names the task.
        """
        check_is_fitted(self, "learner_")
        self._check_parameters()
        if sample_weight is not None:
            raise ValueError(
                "sample_weight is not supported: score weighs all tasks the same. Use "
                "sample_weight=None."
            )
        tasks = as_tasks(X, y, groups)
        given = isinstance(self.random_state, numbers.Integral)
        seed = int(self.random_state) if given else 0
        tasks = representative(tasks, seed)
        self._preparation.check_width(self, tasks.rows())
        value = _scores.score_tasks(self, tasks, seed, self._new_score())
        _leakage.warn_of_seen(tasks, self._seen_tasks, stacklevel=2)
        return value

    # Storing ---------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle: CPU tensors, optimizer only with warm_start."""
        state = dict(super().__getstate__())
        if "learner_" in state:
            state["learner_"] = _on_cpu(state["learner_"])
            keeps_optimizer = self.warm_start and state["_optimizer_state"]
            state["_optimizer_state"] = (
                pytree.tree_map(_to_cpu, state["_optimizer_state"])
                if keeps_optimizer
                else None
            )
        return state

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "learner_")


class MetaClassifierMixin(ClassifierMixin):
    """What classifiers add to `BaseMetaLearner`."""

    _classifies = True
    score = BaseMetaLearner.score  # ClassifierMixin has its own, on rows

    def predict_proba(self: Any, X: ArrayLike) -> NDArray[np.float64]:
        """Predict class probabilities for the task that was adapted to last.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            Rows of that task.

        Returns
        -------
        ndarray of shape (n_query, n_classes)
            Columns in the order of ``adapted_.classes_``.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        """
        return self._last_adapted().predict_proba(X)

    def _adapted_to(self: Any, X: ArrayLike, y: ArrayLike) -> FewShotClassifier:
        few_shot = FewShotClassifier(self._own_copy(), missing_classes="allow")
        return few_shot._fit(X, y, takes_ranks=False)

    def _new_score(self) -> _scores.MeanAccuracy:
        return _scores.MeanAccuracy()


class MetaRegressorMixin(RegressorMixin):
    """What regressors add to `BaseMetaLearner`."""

    _classifies = False
    score = BaseMetaLearner.score  # RegressorMixin has its own, on rows

    def _check_parameters(self: Any) -> None:
        super()._check_parameters()
        check_choice("normalize_y", self.normalize_y, (True, False, "task"))

    def _adapted_to(self: Any, X: ArrayLike, y: ArrayLike) -> FewShotRegressor:
        return FewShotRegressor(self._own_copy()).fit(X, y)

    def _new_score(self) -> _scores.PooledR2:
        return _scores.PooledR2()


def _on_cpu(learner: Learner) -> Learner:
    """Return the learner itself if it is on the CPU, so that pickles share it."""
    if _meta_training.is_on(learner, torch.device("cpu")):
        return learner
    return copy.deepcopy(learner).cpu()


def _to_cpu(leaf: Any) -> Any:
    return leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, BaseEstimator) and type(a) is type(b):
        mine, other = a.get_params(deep=False), b.get_params(deep=False)
        return all(_same(mine[name], other[name]) for name in mine)
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return False
