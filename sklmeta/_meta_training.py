"""The outer loop as estimators run it: which episodes, which held-out ones, and how.

Functions of an unfitted or fitted meta-learner's parameters; they change nothing.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from skorch.history import History

from sklmeta import _episodes
from sklmeta._backbone_source import prepared_by
from sklmeta._domains import domain_names
from sklmeta._episodes import representative
from sklmeta._parameters import resolve_device
from sklmeta._preparation import Preparation, Settings
from sklmeta._task_rows import TransformedTasks
from sklmeta.backbones.initialization import global_seed
from sklmeta.engine.batches import Episodes
from sklmeta.engine.byte_counts import as_bytes
from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec
from sklmeta.engine.inference import moved_to, on_cpu
from sklmeta.engine.learner import Learner
from sklmeta.engine.memory import MemoryBudget
from sklmeta.engine.modules import try_out
from sklmeta.engine.spec import bounds
from sklmeta.engine.training import TrainingOptions, TrainingResult, meta_train
from sklmeta.engine.updates import UpdateOptions
from sklmeta.tasks import ClassPool, TaskSet, ValidationTasks, as_tasks

__all__ = [
    "Seeds",
    "episode_spec",
    "fixed_episodes",
    "learn_preparation",
    "moved_to",
    "new_learner",
    "on_cpu",
    "one_pass",
    "refuse_other_domains",
    "representative",
    "resumed_optimizer",
    "split_held_out",
    "standardised",
    "train",
    "training_episodes",
    "training_sampler",
    "without_weightless",
]

FIRST_JUDGED = 20  # meta-updates before their loss is judged
N_LAST = 10  # of them
USELESS = 10.0  # query loss from which on adapting is worse than not adapting


@dataclass
class Seeds:
    """Independent seeds for everything that is drawn in one fit."""

    weights: int
    episodes: int
    held_out: int
    dropout: int

    @classmethod
    def of(cls, random_state: Any) -> Seeds:
        """Draw the seeds from what scikit-learn takes as `random_state`."""
        state = check_random_state(random_state)
        return cls(*state.randint(np.iinfo(np.int32).max, size=4).tolist())


def learn_preparation(
    estimator: Any, tasks: TaskSet | ClassPool, classes: Any = None
) -> Preparation:
    """Learn how rows are prepared, by the estimator's parameters."""
    shape = estimator.image_shape
    settings = Settings(
        name=type(estimator).__name__,
        classifies=estimator._classifies,
        image_shape=None if shape is None else tuple(shape),
        normalize_x=estimator.normalize_x,
        normalize_y=getattr(estimator, "normalize_y", False),
    )
    if estimator.backbone_from is None:
        return Preparation.learn(settings, tasks, classes)
    return prepared_by(estimator.backbone_from, settings, tasks, classes)


def new_learner(estimator: Any, preparation: Preparation, seed: int) -> Learner:
    """Return the estimator's learner with new weights."""
    backbone, n_features = estimator._make_backbone(preparation.input_shape, seed)
    estimator._freeze(backbone)
    generator = torch.Generator().manual_seed(seed)
    learner = estimator._make_learner(
        backbone,
        n_features,
        preparation.n_outputs,
        _training_ways(estimator, preparation),
        generator,
    ).float()  # as rows are, whatever torch's default is
    if preparation.is_image:
        # The layout that convolutions are fastest in, and images come in.
        learner = learner.to(memory_format=torch.channels_last)
    return learner


def _training_ways(estimator: Any, preparation: Preparation) -> int | None:
    """Return the most ways that a training episode can have, with local labels."""
    if preparation.most_ways is None:
        return None
    n_way = episode_spec(estimator, preparation).n_way
    if n_way is None:
        return preparation.usual_ways
    return min(preparation.most_ways, bounds(n_way)[1])


def episode_spec(
    estimator: Any, preparation: Preparation, **changes: Any
) -> EpisodeSpec:
    """Return the shape of episodes that the estimator's parameters ask for."""
    values = {
        "n_shot": estimator.n_shot,
        "n_query": estimator.n_query,
        "n_way": estimator.n_way,
        "per_class": preparation.labels == "local",
        "support_order": estimator.support_order,
        "small_tasks": estimator.small_tasks,
    }
    return EpisodeSpec(**{**values, **changes})


def training_spec(estimator: Any, preparation: Preparation) -> EpisodeSpec:
    """Return the shape of the episodes of meta-training."""
    return episode_spec(estimator, preparation, **estimator._training_counts())


def training_sampler(
    estimator: Any,
    tasks: TaskSet | ClassPool,
    preparation: Preparation,
    domain_weights: Any = None,
) -> EpisodeSampler:
    """Return what training episodes are drawn by."""
    pool = preparation.pool(tasks, resolve_device(estimator.device))
    return EpisodeSampler(pool, training_spec(estimator, preparation), domain_weights)


def refuse_other_domains(weights: Any, tasks: Any) -> None:
    """Refuse weights that are not of the domains of tasks.

    Raises
    ------
    ValueError
        If there are no domains, or naming those that are missing or unknown.
    """
    if weights is None:
        return
    if not isinstance(tasks, TaskSet | ClassPool):
        raise ValueError(
            f"domain_weights={weights!r} weighs the domains of given tasks, and a "
            f"{type(tasks).__name__} draws its own. Leave domain_weights=None; "
            "MixedTasks has weights for its sources."
        )
    known = domain_names(tasks.rows().domains)
    if not known:
        raise ValueError(
            f"domain_weights={weights!r} weighs domains, and the tasks have none. Give "
            "domains by TaskSet.from_domains or ClassPool.from_domains, or leave "
            "domain_weights=None."
        )
    if isinstance(weights, str):
        return
    missing = [name for name in known if name not in weights]
    unknown = [name for name in weights if name not in known]
    if missing or unknown:
        what, which = ("lacks", missing) if missing else ("names", unknown)
        raise ValueError(
            f"domain_weights {what} {which}; the domains of the tasks are {known}. "
            "Give each of them a weight; 0 draws nothing from it. In searches, folds "
            "must not take a domain away: shuffle them, TaskKFold(5, shuffle=True), or "
            "spread domains by fit(tasks, groups=tasks.domains)."
        )


def without_weightless(weights: Any, tasks: Any) -> Any:
    """Return the tasks of domains with a weight above 0.

    The others teach nothing, nor how rows are scaled.
    """
    if not isinstance(weights, Mapping) or all(weights.values()):
        return tasks
    return tasks[np.array([bool(weights[domain]) for domain in tasks.domains])]


def training_episodes(
    estimator: Any, tasks: Any, preparation: Preparation, seed: int
) -> Iterator[Episodes]:
    """Return endless batches of training episodes."""
    generator = torch.Generator().manual_seed(seed)
    batch_size = estimator.batch_size
    if isinstance(tasks, TaskSet | ClassPool):
        weights = estimator.domain_weights
        sampler = training_sampler(estimator, tasks, preparation, weights)
        batches = _episodes.endless_batches(sampler, batch_size, generator)
    else:
        device = resolve_device(estimator.device)
        batches = _episodes.sampled_batches(
            tasks,
            lambda fresh: preparation.pool(fresh, device),
            training_spec(estimator, preparation),
            batch_size,
            generator,
        )
    return standardised(batches, preparation)


def one_pass(
    estimator: Any, tasks: Any, preparation: Preparation, seed: int
) -> list[Episodes]:
    """Return the batches of one pass over tasks."""
    if not isinstance(tasks, TaskSet | ClassPool):
        return [next(training_episodes(estimator, tasks, preparation, seed))]
    sampler = training_sampler(estimator, tasks, preparation)
    generator = torch.Generator().manual_seed(seed)
    batches = _episodes.one_pass(sampler, estimator.batch_size, generator)
    return list(standardised(batches, preparation))


def split_held_out(
    estimator: Any, tasks: Any, validation_tasks: Any, seed: int
) -> tuple[Any, Any]:
    """Return tasks to train on, and held-out tasks or None."""
    if validation_tasks is not None:
        if isinstance(validation_tasks, ValidationTasks):
            validation_tasks = validation_tasks.tasks
        return tasks, as_tasks(validation_tasks)
    if not estimator._holds_out:
        return tasks, None
    if not isinstance(tasks, TaskSet | ClassPool):
        return _divided(tasks, estimator.validation_fraction, seed)
    reason = "early_stopping=True"
    if not estimator.early_stopping:
        reason = f"calibrate={estimator.calibrate!r}"
    return _episodes.hold_out(
        tasks, estimator.validation_fraction, estimator.n_way, seed, reason
    )


def _divided(distribution: Any, fraction: float, seed: int) -> tuple[Any, Any]:
    """Return distributions to train on and to hold out: the same one if all is fresh.

    Those that repeat tasks have a method `hold_out`.
    """
    if isinstance(distribution, TransformedTasks):
        parts = _divided(distribution.tasks, fraction, seed)
        train, held_out = (replace(distribution, tasks=part) for part in parts)
        return train, held_out
    if hasattr(distribution, "hold_out"):
        train, held_out = distribution.hold_out(fraction, seed)
        return train, held_out
    return distribution, distribution


def fixed_episodes(
    estimator: Any, tasks: Any, preparation: Preparation, seed: int
) -> list[Episodes] | None:
    """Return the episodes of held-out tasks that every epoch is judged on."""
    if tasks is None:
        return None
    tasks = representative(tasks, seed)
    pool = preparation.pool(tasks, resolve_device(estimator.device))
    sampler = EpisodeSampler(pool, episode_spec(estimator, preparation))
    n_episodes = max(_episodes.HELD_OUT_EPISODES, len(sampler.task_ids))
    index = sampler.draw(n_episodes, torch.Generator().manual_seed(seed))
    batches = _episodes.batches_of(sampler, index, estimator.batch_size)
    return list(standardised(batches, preparation))


def _remedy(sizes: Sequence[str], estimator: Any) -> str:
    """Return what to do where training diverges."""
    remedies = [f"Lower {' or '.join(sizes)}", "scale features with long tails"]
    if estimator._clips:
        remedies.append(
            "clip gradients: callbacks=[skorch.callbacks.GradientNormClipping(1.0)]"
        )
    *first, last = remedies
    return f"{', '.join(first)}, or {last}." if first[1:] else f"{first[0]}, or {last}."


def train(
    estimator: Any,
    learner: Learner,
    stream: Iterator[Episodes],
    validation: Sequence[Episodes] | None,
    optimizer_state: dict[str, Any] | None,
    n_updates: int,
    seed: int,
    *,
    n_done_before: int = 0,
    has_plan: bool = True,
) -> TrainingResult:
    """Run the outer loop on `learner`, in place, by the estimator's parameters.

    `n_done_before` counts the updates that it goes on from; without a plan, nobody
    knows how many are to come.
    """
    stops = estimator.early_stopping and validation is not None
    sizes = [f"{n} (now {getattr(estimator, n)!r})" for n in estimator._step_sizes]
    options = TrainingOptions(
        optimizer=estimator.optimizer,
        outer_lr=estimator.outer_lr,
        n_updates=n_updates,
        n_done_before=n_done_before,
        has_plan=has_plan,
        eval_every=estimator.eval_every,
        patience=estimator.n_iter_no_change if stops else None,
        callbacks=estimator.callbacks or (),
        verbose=estimator.verbose,
        remedy=_remedy(sizes, estimator),
        update=UpdateOptions(compile=estimator.compile),
    )
    learner = learner.to(resolve_device(estimator.device)).eval()
    if not any(p.requires_grad for p in learner.parameters()):
        return TrainingResult(History(), 0, {})  # nothing to learn by gradients
    first = next(stream)
    stream = chain([first], stream)
    with _equipped(estimator, learner):
        if not n_done_before:
            try_out(learner, first)
        if not n_updates:
            return TrainingResult(History(), 0, {})
        learner.budget.n_tasks(learner, first)  # refuses what cannot fit
        with _draws_seeded(learner, seed):
            result = meta_train(learner, stream, validation, options, optimizer_state)
    if n_done_before + result.n_updates >= FIRST_JUDGED:
        _warn_of_useless(estimator, result.history, options.remedy)
    return result


def _warn_of_useless(estimator: Any, history: History, remedy: str) -> None:
    """Warn where adapted models are far worse than the mean of all targets.

    Cross-entropy tells less: sure classifiers have large ones, and may still be good.
    """
    if estimator._classifies or estimator.normalize_y in (False, "task"):
        return  # in units of a few support rows, losses have no such scale
    loss = _last_loss(history, estimator.early_stopping)
    if loss < USELESS:
        return
    warnings.warn(
        f"Meta-training ends with a mean query loss of {loss:.3g}, where the mean of "
        f"all targets has about 1: adapted models are worse than none. {remedy}",
        ConvergenceWarning,
        stacklevel=4,
    )


def _last_loss(history: History, best_is_kept: bool) -> float:
    """Return the mean query loss of the weights that are kept, about."""
    if not len(history):  # an interrupted epoch is dropped
        return 0.0
    if "valid_loss" in history[-1]:
        losses = history[:, "valid_loss"]
        return float(min(losses) if best_is_kept else losses[-1])
    rows = [row for row in history[-1, "batches"] if "train_loss" in row]
    losses = [row["train_loss"] for row in rows]
    return float(np.median(losses[-N_LAST:]))


def resumed_optimizer(estimator: Any) -> dict[str, Any] | None:
    """Return the optimizer's state to go on with, under the parameters of today.

    None starts it afresh: after unpickling, and where `optimizer` is another one.
    """
    state = estimator._optimizer_state
    # A learner need not have all the common parameters.
    before = estimator._trained_with.get("optimizer", estimator.optimizer)
    if not state or estimator.optimizer != before:
        return None
    state = copy.deepcopy(state)
    for group in state["param_groups"]:
        group["lr"] = estimator.outer_lr
    return state


def standardised(
    batches: Iterator[Episodes], preparation: Preparation
) -> Iterator[Episodes]:
    """Put targets in units of their own support rows, where that is asked for."""
    targets = preparation.task_targets
    return batches if targets is None else map(targets.standardise, batches)


@contextmanager
def _equipped(estimator: Any, learner: Learner) -> Iterator[None]:
    """Give a learner what it is told for training alone, and take it back."""
    learner.mixed_precision = estimator.mixed_precision
    learner.budget = MemoryBudget(as_bytes(estimator.memory_limit))
    try:
        yield
    finally:
        del learner.mixed_precision, learner.budget


@contextmanager
def _draws_seeded(learner: Learner, seed: int) -> Iterator[None]:
    """Seed torch's global generators for modules that draw, and restore them."""
    drops = any("Dropout" in type(layer).__name__ for layer in learner.modules())
    draws = drops or learner.draws_randomly
    with global_seed(seed) if draws else nullcontext():
        yield
