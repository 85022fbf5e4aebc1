"""The estimator contract: fit on tasks, adapt to a new one, predict its rows."""

from __future__ import annotations

import copy
import numbers
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from skorch.history import History
from torch import nn

from sklmeta import _episodes, _leakage, _scores
from sklmeta._parameters import check_choice, check_common_parameters, resolve_device
from sklmeta._preparation import Preparation, Settings
from sklmeta._supports import encode_supports
from sklmeta.backbones.build import build_backbone, feature_size
from sklmeta.engine.batches import Episodes
from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec
from sklmeta.engine.inference import run_episodes
from sklmeta.engine.learner import Learner
from sklmeta.engine.training import TrainingOptions, TrainingResult, meta_train
from sklmeta.fewshot import FewShotClassifier, FewShotRegressor
from sklmeta.tasks import (
    ClassPool,
    TaskSet,
    ValidationTasks,
    as_tasks,
)

__all__ = ["BaseMetaLearner", "MetaClassifierMixin", "MetaRegressorMixin"]

SAMPLED_TASKS = 200
EPISODES_PER_PASS = 256


@dataclass
class _Seeds:
    """Independent seeds for everything that is drawn in one fit."""

    weights: int
    episodes: int
    held_out: int
    dropout: int

    @classmethod
    def of(cls, random_state: Any) -> _Seeds:
        state = check_random_state(random_state)
        return cls(*state.randint(np.iinfo(np.int32).max, size=4).tolist())


class BaseMetaLearner(BaseEstimator):
    """Base of the meta-learners that train by gradients on episodes.

    Subclasses add their parameters, `_make_learner`, and one of the two mixins.
    """

    # Parameters that act when adapting; all others only in meta-training.
    _adaptation_parameters: ClassVar[tuple[str, ...]] = ()
    # What to lower when meta-training diverges.
    _step_sizes: ClassVar[tuple[str, ...]] = ("outer_lr",)
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
        self._check_parameters()
        seeds = _Seeds.of(self.random_state)
        goes_on = self.warm_start and hasattr(self, "learner_")
        tasks = as_tasks(X, y, groups)
        sample = self._representative(tasks, seeds.held_out)
        preparation = self._preparation if goes_on else self._learn(sample)
        if goes_on:
            preparation.check_width(self, sample.rows())
        learner = (
            copy.deepcopy(self.learner_)
            if goes_on
            else self._new_learner(preparation, seeds.weights)
        )
        train_tasks, held_out = self._held_out(tasks, validation_tasks, seeds)
        stream = self._stream(train_tasks, preparation, seeds)
        validation = self._fixed_episodes(held_out, preparation, seeds.held_out)
        state = self._optimizer_state if goes_on else None
        result = self._train(learner, stream, validation, state, self.max_iter, seeds)
        self._install(preparation, learner, result, goes_on)
        self._remember(train_tasks, goes_on)
        if result.interrupted is not None:
            raise result.interrupted
        return self

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
        self._check_parameters()
        seeds = _Seeds.of(self.random_state)
        goes_on = hasattr(self, "learner_")
        tasks = as_tasks(X, y, groups)
        sample = self._representative(tasks, seeds.held_out)
        if goes_on:
            preparation = self._preparation
            preparation.check_width(self, sample.rows())
            learner = copy.deepcopy(self.learner_)
            # Each pass draws its own episodes.
            seeds.episodes = (seeds.episodes + self.n_iter_) % 2**31
        else:
            preparation = self._learn(sample).with_classes(classes)
            learner = self._new_learner(preparation, seeds.weights)
        batches = self._one_pass(tasks, preparation, seeds)
        state = self._optimizer_state if goes_on else None
        result = self._train(learner, iter(batches), None, state, len(batches), seeds)
        self._install(preparation, learner, result, goes_on)
        self._remember(tasks, goes_on)
        if result.interrupted is not None:
            raise result.interrupted
        return self

    def _representative(self, tasks: Any, seed: int) -> TaskSet | ClassPool:
        """Return tasks to learn scales and classes from."""
        if isinstance(tasks, TaskSet | ClassPool):
            return tasks
        return tasks.sample(SAMPLED_TASKS, seed)

    def _learn(self, tasks: TaskSet | ClassPool) -> Preparation:
        settings = Settings(
            name=type(self).__name__,
            classifies=self._classifies,
            image_shape=None if self.image_shape is None else tuple(self.image_shape),
            normalize_x=self.normalize_x,
            normalize_y=getattr(self, "normalize_y", False),
        )
        return Preparation.learn(settings, tasks)

    def _new_learner(self, preparation: Preparation, seed: int) -> Learner:
        shape = preparation.input_shape
        backbone = build_backbone(self.backbone, shape, seed=seed)
        n_features = feature_size(backbone, shape)
        generator = torch.Generator().manual_seed(seed)
        learner = self._make_learner(
            backbone, n_features, preparation.n_outputs, generator
        )
        if preparation.is_image:
            # The layout that convolutions are fastest in, and images come in.
            learner = learner.to(memory_format=torch.channels_last)
        return learner

    def _spec(self, preparation: Preparation, **changes: Any) -> EpisodeSpec:
        """Return the shape of episodes that this estimator's parameters ask for."""
        values = {
            "n_shot": self.n_shot,
            "n_query": self.n_query,
            "n_way": self.n_way,
            "per_class": preparation.labels == "local",
            "support_order": self.support_order,
            "small_tasks": self.small_tasks,
        }
        return EpisodeSpec(**{**values, **changes})

    def _stream(
        self, tasks: Any, preparation: Preparation, seeds: _Seeds
    ) -> Iterator[Episodes]:
        """Return endless batches of training episodes."""
        device = resolve_device(self.device)
        generator = torch.Generator().manual_seed(seeds.episodes)
        spec = self._spec(preparation)
        if isinstance(tasks, TaskSet | ClassPool):
            sampler = EpisodeSampler(preparation.pool(tasks, device), spec)
            batches = _episodes.endless_batches(sampler, self.batch_size, generator)
        else:
            batches = _episodes.sampled_batches(
                tasks,
                lambda fresh: preparation.pool(fresh, device),
                spec,
                self.batch_size,
                generator,
            )
        return _standardised(batches, preparation)

    def _one_pass(
        self, tasks: Any, preparation: Preparation, seeds: _Seeds
    ) -> list[Episodes]:
        """Return the batches of one pass over tasks."""
        if not isinstance(tasks, TaskSet | ClassPool):
            return [next(self._stream(tasks, preparation, seeds))]
        device = resolve_device(self.device)
        generator = torch.Generator().manual_seed(seeds.episodes)
        pool = preparation.pool(tasks, device)
        sampler = EpisodeSampler(pool, self._spec(preparation))
        batches = _episodes.one_pass(sampler, self.batch_size, generator)
        return list(_standardised(batches, preparation))

    def _held_out(
        self, tasks: Any, validation_tasks: Any, seeds: _Seeds
    ) -> tuple[Any, Any]:
        """Return tasks to train on, and held-out tasks or None."""
        if validation_tasks is not None:
            if isinstance(validation_tasks, ValidationTasks):
                validation_tasks = validation_tasks.tasks
            return tasks, as_tasks(validation_tasks)
        if not self.early_stopping:
            return tasks, None
        if not isinstance(tasks, TaskSet | ClassPool):
            return tasks, tasks
        return _episodes.hold_out(
            tasks, self.validation_fraction, self.n_way, seeds.held_out
        )

    def _fixed_episodes(
        self, tasks: Any, preparation: Preparation, seed: int
    ) -> list[Episodes] | None:
        """Return the episodes of held-out tasks that every epoch is judged on."""
        if tasks is None:
            return None
        tasks = self._representative(tasks, seed)
        preparation.check_row_shape(tasks.rows().row_shape)
        pool = preparation.pool(tasks, resolve_device(self.device))
        sampler = EpisodeSampler(pool, self._spec(preparation))
        n_episodes = max(_episodes.HELD_OUT_EPISODES, len(sampler.task_ids))
        index = sampler.draw(n_episodes, torch.Generator().manual_seed(seed))
        batches = _episodes.batches_of(sampler, index, self.batch_size)
        return list(_standardised(batches, preparation))

    def _train(
        self,
        learner: Learner,
        stream: Iterator[Episodes],
        validation: Sequence[Episodes] | None,
        optimizer_state: dict[str, Any] | None,
        n_updates: int,
        seeds: _Seeds,
    ) -> TrainingResult:
        sizes = [f"{name} (now {getattr(self, name)})" for name in self._step_sizes]
        options = TrainingOptions(
            optimizer=self.optimizer,
            outer_lr=self.outer_lr,
            n_updates=n_updates,
            eval_every=self.eval_every,
            patience=self.n_iter_no_change if self.early_stopping else None,
            callbacks=self.callbacks or (),
            verbose=self.verbose,
            remedy=f"Lower {' or '.join(sizes)}.",
        )
        learner = learner.to(resolve_device(self.device)).eval()
        if not any(p.requires_grad for p in learner.parameters()):
            return TrainingResult(History(), 0, {})  # nothing to learn by gradients
        with _dropout_seeded(learner, seeds.dropout):
            return meta_train(learner, stream, validation, options, optimizer_state)

    def _install(
        self,
        preparation: Preparation,
        learner: Learner,
        result: TrainingResult,
        goes_on: bool,
    ) -> None:
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
        self.__dict__.pop("adapted_", None)

    def _remember(self, tasks: Any, goes_on: bool) -> None:
        """Keep what is needed to warn of scoring on tasks that were trained on."""
        seen = _leakage.fingerprints(tasks)
        self._seen_tasks = {**self._seen_tasks, **seen} if goes_on else seen

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
        adapted = self._few_shot()
        adapted.fit(X_support, y_support)
        self.adapted_ = adapted
        return adapted

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
        batch = encode_supports(self, tasks, query_Xs)
        return batch.decode(run_episodes(self._configured_learner(), batch.episodes))

    def _few_shot(self) -> Any:
        """Return the unfitted few-shot estimator of this meta-learner."""
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
        return self.learner_.with_options(**{n: getattr(self, n) for n in names})

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
        for name, now in self.get_params(deep=False).items():
            before = self._trained_with.get(name)
            if name in free or now is before or _same(now, before):
                continue
            raise ValueError(
                f"{name}={now!r} acts in meta-training only, and this "
                f"{type(self).__name__} was meta-trained with {name}={before!r}. "
                f"Search over it with the meta-learner itself on tasks, or set it back."
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
        _leakage.warn_of_seen(tasks, self._seen_tasks, stacklevel=2)
        seed = (
            self.random_state if isinstance(self.random_state, numbers.Integral) else 0
        )
        tasks = self._representative(tasks, seed)
        self._preparation.check_width(self, tasks.rows())
        pool = self._preparation.pool(tasks, resolve_device(self.device))
        spec = self._spec(self._preparation, n_query=None)
        sampler = EpisodeSampler(pool, spec)
        index = _episodes.scoring_index(sampler, seed)
        learner = self._configured_learner()
        total = self._new_score()
        for start in range(0, len(index), EPISODES_PER_PASS):
            episodes = sampler.gather(index[start : start + EPISODES_PER_PASS])
            ready = next(_standardised(iter([episodes]), self._preparation))
            total.add(run_episodes(learner, ready), ready.query)
        return total.value()

    # Storing ---------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle: CPU tensors, optimizer only with warm_start."""
        state = dict(super().__getstate__())
        if "learner_" in state:
            state["learner_"] = copy.deepcopy(state["learner_"]).cpu()
            if not self.warm_start:
                state["_optimizer_state"] = None
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

    def _few_shot(self: Any) -> FewShotClassifier:
        return FewShotClassifier(self._own_copy(), missing_classes="allow")

    def _new_score(self) -> _scores.MeanAccuracy:
        return _scores.MeanAccuracy()


class MetaRegressorMixin(RegressorMixin):
    """What regressors add to `BaseMetaLearner`."""

    _classifies = False
    score = BaseMetaLearner.score  # RegressorMixin has its own, on rows

    def _check_parameters(self: Any) -> None:
        super()._check_parameters()  # type: ignore[misc]
        check_choice("normalize_y", self.normalize_y, (True, False, "task"))

    def _few_shot(self: Any) -> FewShotRegressor:
        return FewShotRegressor(self._own_copy())

    def _new_score(self) -> _scores.PooledR2:
        return _scores.PooledR2()


def _standardised(
    batches: Iterator[Episodes], preparation: Preparation
) -> Iterator[Episodes]:
    """Put targets in units of their own support rows, where that is asked for."""
    targets = preparation.task_targets
    return batches if targets is None else map(targets.standardise, batches)


@contextmanager
def _dropout_seeded(learner: Learner, seed: int) -> Iterator[None]:
    """Seed torch's global generator for modules with dropout, and restore it after."""
    drops = any("Dropout" in type(layer).__name__ for layer in learner.modules())
    with torch.random.fork_rng() if drops else nullcontext():
        if drops:
            torch.manual_seed(seed)
        yield


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return False
