"""Meta-learners that train a torch learner by gradients on episodes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self, TypedDict

import torch
from numpy.typing import ArrayLike, NDArray
from skorch.history import History
from torch import nn
from torch.utils import _pytree as pytree

from sklmeta import _leakage, _meta_training
from sklmeta._adapted import TorchModel
from sklmeta._backbone_source import (
    backbone_of,
    check_source,
    refuse_unlearned_averages,
)
from sklmeta._frozen_features import features_once
from sklmeta._meta_tags import MetaTags
from sklmeta._meta_training import Seeds, representative
from sklmeta._parameters import (
    check_choice,
    check_common_parameters,
    check_mixed_precision,
    resolve_device,
)
from sklmeta._preparation import Preparation
from sklmeta._scores import MeanAccuracy, PooledR2, score_tasks
from sklmeta._signatures import spell_out
from sklmeta._supports import predict_supports
from sklmeta.backbones.build import build_backbone, feature_size
from sklmeta.backbones.freezing import check_freeze, freeze_layers
from sklmeta.base import BaseMetaLearner, MetaRegressorMixin
from sklmeta.engine.batches import Episodes
from sklmeta.engine.byte_counts import as_bytes
from sklmeta.engine.inference import adapt_and_predict
from sklmeta.engine.learner import Learner
from sklmeta.engine.memory import MemoryBudget
from sklmeta.engine.training import TrainingResult
from sklmeta.tasks import ClassPool, TaskSet, as_tasks

__all__ = ["CommonParameters", "EpisodicMetaLearner", "EpisodicRegressorMixin"]


class CommonParameters(TypedDict, total=False):
    """What `EpisodicMetaLearner` takes, for subclasses that pass it on by name."""

    backbone_from: Any
    freeze: Any
    n_way: Any
    n_shot: Any
    n_query: Any
    support_order: str
    small_tasks: str
    domain_weights: Any
    image_shape: Any
    normalize_x: bool
    outer_lr: float
    optimizer: Any
    batch_size: int
    max_iter: int
    eval_every: int
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    callbacks: Any
    device: Any
    compile: bool
    mixed_precision: bool
    memory_limit: Any
    warm_start: bool
    random_state: Any
    verbose: int


class EpisodicMetaLearner(BaseMetaLearner):
    """Base of the meta-learners that train by gradients on episodes.

    Subclasses add their parameters, `_make_learner`, and `MetaClassifierMixin` or
    `EpisodicRegressorMixin`. Their ``__init__`` names their own parameters and passes
    the others on as ``**common``; the signature then shows them all.
    """

    learner_: Learner
    history_: History
    n_iter_: int
    _preparation: Preparation
    _optimizer_state: dict[str, Any] | None

    _step_sizes: ClassVar[tuple[str, ...]] = ("outer_lr",)
    _least_updates: ClassVar[int] = 1  # of `max_iter`
    _clips: ClassVar[bool] = True  # whether `callbacks` could clip gradients
    # Built into the learner or its preparation by the first fit.
    _structural_parameters: ClassVar[tuple[str, ...]] = (
        *("backbone", "backbone_from", "freeze"),
        *("head", "image_shape", "normalize_x", "normalize_y"),
        "transductive",
    )
    _exempt_parameters = (
        *BaseMetaLearner._exempt_parameters,
        *("device", "n_query", "max_iter", "warm_start", "callbacks", "memory_limit"),
        "compile",
    )

    __metadata_request__partial_fit: ClassVar[dict[str, Any]] = {"groups": True}

    def __init__(
        self,
        backbone: Any = None,
        *,
        backbone_from: Any = None,
        freeze: Any = None,
        n_way: Any = None,
        n_shot: Any = 5,
        n_query: Any = 15,
        support_order: str = "random",
        small_tasks: str = "shrink",
        domain_weights: Any = None,
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
        compile: bool = False,
        mixed_precision: bool = False,
        memory_limit: Any = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.backbone = backbone
        self.backbone_from = backbone_from
        self.freeze = freeze
        self.n_way = n_way
        self.n_shot = n_shot
        self.n_query = n_query
        self.support_order = support_order
        self.small_tasks = small_tasks
        self.domain_weights = domain_weights
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
        self.compile = compile
        self.mixed_precision = mixed_precision
        self.memory_limit = memory_limit
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        spell_out(cls, EpisodicMetaLearner)

    # What subclasses say ---------------------------------------------------------

    def _make_backbone(
        self, input_shape: tuple[int, ...], seed: int
    ) -> tuple[nn.Module, int]:
        """Return a new backbone for rows of a shape, and how many features it gives."""
        backbone = build_backbone(self._given_backbone, input_shape, seed=seed)
        try:
            return backbone, feature_size(backbone, input_shape)
        except ValueError as error:
            if self.backbone_from is None:
                raise
            raise ValueError(
                f"The backbone of the {type(self.backbone_from).__name__} given as "
                "backbone_from does not take rows alone, as that of CAVIA, which takes "
                f"its context too. Start from another meta-learner. {error}"
            ) from error

    @property
    def _given_backbone(self) -> Any:
        """What `build_backbone` is to make the backbone of; None for the default."""
        if self.backbone_from is None:
            return self.backbone
        return backbone_of(self.backbone_from)

    def _freeze(self, backbone: nn.Module) -> None:
        """Freeze what is not to be trained of a new backbone."""
        freeze_layers(backbone, self.freeze)
        if self.backbone_from is not None:
            is_kept = self.max_iter == 0
            refuse_unlearned_averages(self.backbone_from, backbone, is_kept)

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> Learner:
        """Return a new torch learner.

        `backbone` gives `n_features`. There are `n_outputs` shared classes or targets;
        with local labels it is None, and training episodes have up to `n_ways`.
        """
        raise NotImplementedError

    def _get_ready(
        self,
        learner: Learner,
        tasks: Any,
        preparation: Preparation,
        seeds: Seeds,
        goes_on: bool,
    ) -> bool:
        """Do what comes before training on tasks; say whether weights are new."""
        return False

    def _training_stream(
        self, learner: Learner, tasks: Any, preparation: Preparation, seed: int
    ) -> Iterator[Episodes]:
        """Return endless batches to train a learner on."""
        return _meta_training.training_episodes(self, tasks, preparation, seed)

    def _one_pass(
        self, tasks: Any, preparation: Preparation, seed: int
    ) -> list[Episodes]:
        """Return the batches of one pass over tasks."""
        return _meta_training.one_pass(self, tasks, preparation, seed)

    def _training_counts(self) -> dict[str, Any]:
        """Return the counts of training episodes that are not those of scored ones."""
        return {}

    @property
    def _holds_out(self) -> bool:
        """Whether `fit` keeps tasks from training."""
        return bool(self.early_stopping)

    def _finish(self, learner: Learner, validation: list[Episodes] | None) -> None:
        """Do with a trained learner what `fit` does last, given held-out episodes."""

    def _check_parameters(self) -> None:
        """Raise TypeError or ValueError if a parameter is not usable."""
        super()._check_parameters()
        check_common_parameters(self)
        check_source(self)
        check_freeze(self.freeze)
        device = resolve_device(self.device)
        if self.mixed_precision:
            check_mixed_precision(device)
        if hasattr(self, "normalize_y"):
            check_choice("normalize_y", self.normalize_y, (True, False, "task"))

    def __sklmeta_tags__(self) -> MetaTags:
        """Say that weights are trained by gradients on episodes."""
        tags = super().__sklmeta_tags__()
        tags.episodic = True
        return tags

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
        _meta_training.refuse_other_domains(self.domain_weights, tasks)
        tasks = _meta_training.without_weightless(self.domain_weights, tasks)
        sample = representative(tasks, seeds.held_out)
        preparation, learner = self._prepared(sample, None, seeds, goes_on)
        train_tasks, held_out = _meta_training.split_held_out(
            self, tasks, validation_tasks, seeds.held_out
        )
        renewed = self._get_ready(learner, train_tasks, preparation, seeds, goes_on)
        tried = representative(train_tasks, seeds.episodes)
        rows, trained = features_once(self, preparation, learner, tried, seeds, goes_on)
        stream = self._training_stream(trained, train_tasks, rows, seeds.episodes)
        validation = _meta_training.fixed_episodes(self, held_out, rows, seeds.held_out)
        seen = _leakage.fingerprints(train_tasks)
        keeps_state = goes_on and not renewed
        state = _meta_training.resumed_optimizer(self) if keeps_state else None
        result = _meta_training.train(
            self,
            trained,
            stream,
            validation,
            state,
            self.max_iter,
            seeds.dropout,
            n_done_before=self.n_iter_ if goes_on else 0,
        )
        self._finish(trained, validation)
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
        renewed = self._get_ready(learner, tasks, preparation, seeds, goes_on)
        rows, trained = features_once(
            self, preparation, learner, sample, seeds, goes_on
        )
        batches = self._one_pass(tasks, rows, seeds.episodes)
        seen = _leakage.fingerprints(tasks)
        keeps_state = goes_on and not renewed
        state = _meta_training.resumed_optimizer(self) if keeps_state else None
        result = _meta_training.train(
            self,
            trained,
            iter(batches),
            None,
            state,
            len(batches),
            seeds.dropout,
            n_done_before=self.n_iter_ if goes_on else 0,
            has_plan=False,
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
        self._optimizer_state = result.optimizer_state
        self._keep_learned(preparation, seen, goes_on)
        if result.interrupted is not None:
            raise result.interrupted
        return self

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
        names = self.learner_.adaptation_options
        # A pickle holds CPU tensors, whatever the device it is used on later.
        learner = _meta_training.moved_to(self.learner_, resolve_device(self.device))
        view = learner.with_options(**{n: getattr(self, n) for n in names})
        limit = as_bytes(self.memory_limit)
        view.budget = MemoryBudget(limit, adapt_and_predict)
        return view

    # Storing ---------------------------------------------------------------------

    def __sklearn_clone__(self) -> Self:
        copied = super().__sklearn_clone__()
        copied.backbone_from = self.backbone_from  # it keeps its weights
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle: CPU tensors, optimizer only with warm_start."""
        state = dict(super().__getstate__())
        if "learner_" in state:
            state["learner_"] = _meta_training.on_cpu(state["learner_"])
            keeps_optimizer = self.warm_start and state["_optimizer_state"]
            state["_optimizer_state"] = (
                pytree.tree_map(_to_cpu, state["_optimizer_state"])
                if keeps_optimizer
                else None
            )
        return state

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "learner_")


class EpisodicRegressorMixin(MetaRegressorMixin):
    """What regressors add to `EpisodicMetaLearner`."""

    def __init__(
        self,
        backbone: Any = None,
        *,
        normalize_y: bool | str = True,
        **parameters: Any,
    ) -> None:
        super().__init__(backbone, **parameters)
        self.normalize_y = normalize_y


def _to_cpu(leaf: Any) -> Any:
    return leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf
