"""Generated problems that the checks of meta-learners are run on.

Every task hides what matters in a few directions that all tasks share, under nuisance
that is larger: who has learned the directions from other tasks needs few rows, and who
sees one task's support rows alone cannot find them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import check_random_state

from sklmeta.tasks import ClassPool, TaskSet

N_FEATURES = 8
N_SIGNAL = 2
N_WAYS = 3
ROWS_PER_WAY = 20
ROWS = 30
NUISANCE = 3.0
SEPARATION = 2.0
QUICK_UPDATES = 3
N_TRAINING_TASKS = 200
N_HELD_OUT = 60
N_QUICK_TASKS = 20


@dataclass(frozen=True)
class HeldOut:
    """Held-out tasks, cut into support and query rows.

    Attributes
    ----------
    support : TaskSet
    X, y : list of ndarray
        Query rows and what they should be, task by task.
    """

    support: TaskSet
    X: list[NDArray[Any]]
    y: list[NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Problem:
    """A distribution of related tasks of one kind.

    Attributes
    ----------
    kind : {"local", "shared", "numbers"}
        Labels that mean something inside one task, labels that mean the same in all,
        or numbers to predict.
    """

    kind: str
    _trained: WeakKeyDictionary[Any, Any] = field(
        default_factory=WeakKeyDictionary, repr=False
    )

    @property
    def labels(self) -> Any:
        """What the labels of its task sets mean."""
        return "local" if self.kind == "local" else "shared"

    @property
    def n_support(self) -> int:
        """Support rows of a task in the checks."""
        return 5 if self.kind == "numbers" else 5 * N_WAYS

    def sample(self, n_tasks: int, random_state: Any = None) -> TaskSet:
        """Draw tasks whose rows are in random order, classes taking turns."""
        state = check_random_state(random_state)
        draw = self._numbers if self.kind == "numbers" else self._classes
        X, y = draw(n_tasks, np.random.default_rng(state.randint(2**31 - 1)))
        offsets = np.arange(n_tasks + 1) * (len(X) // n_tasks)
        return TaskSet.from_offsets(X, y, offsets, labels=self.labels)

    def tasks(self, n_tasks: int = N_QUICK_TASKS, seed: int = 1) -> TaskSet:
        """Return the same tasks for the same seed."""
        return self.sample(n_tasks, seed)

    def _classes(self, n: int, rng: np.random.Generator) -> Any:
        centres = rng.normal(0, SEPARATION, (n, 1, N_WAYS, N_SIGNAL))
        if self.kind == "shared":
            common = np.random.default_rng(8).normal(0, SEPARATION, (N_WAYS, N_SIGNAL))
            centres = (centres + common) / np.sqrt(2)
        signal = centres + rng.normal(size=(n, ROWS_PER_WAY, N_WAYS, N_SIGNAL))
        nuisance_shape = (n, ROWS_PER_WAY, N_WAYS, N_FEATURES - N_SIGNAL)
        nuisance = rng.normal(0, NUISANCE, nuisance_shape)
        X = np.concatenate([signal, nuisance], -1) @ _rotation()
        return X.reshape(-1, N_FEATURES), np.tile(np.arange(N_WAYS), n * ROWS_PER_WAY)

    def _numbers(self, n: int, rng: np.random.Generator) -> Any:
        X = rng.normal(size=(n, ROWS, N_FEATURES))
        hidden = X @ _rotation().T
        slopes = rng.normal(size=(n, 1, N_SIGNAL))
        y = (slopes * hidden[..., :N_SIGNAL]).sum(-1) + rng.normal(size=(n, 1))
        y += 2 * np.sin(hidden[..., N_SIGNAL]) + 0.1 * rng.normal(size=(n, ROWS))
        return X.reshape(-1, N_FEATURES), y.ravel()

    def class_pool(self, n_classes: int = 12, seed: int = 2) -> ClassPool:
        """Return one data set with many classes."""
        rng = np.random.default_rng(seed)
        signal = rng.normal(0, SEPARATION, (n_classes, 1, N_SIGNAL))
        signal = signal + rng.normal(size=(n_classes, ROWS_PER_WAY, N_SIGNAL))
        nuisance_shape = (n_classes, ROWS_PER_WAY, N_FEATURES - N_SIGNAL)
        nuisance = rng.normal(0, NUISANCE, nuisance_shape)
        X = np.concatenate([signal, nuisance], -1) @ _rotation()
        labels = np.repeat(np.arange(n_classes), ROWS_PER_WAY)
        return ClassPool(X.reshape(-1, N_FEATURES), labels)

    def ragged(self, seed: int = 4) -> TaskSet:
        """Return tasks of different sizes."""
        rng = np.random.default_rng(seed)
        pairs = []
        for task in self.tasks(N_QUICK_TASKS, seed):
            keep = rng.random(len(task)) < rng.uniform(0.6, 1.0)
            keep[: 2 * N_WAYS] = True
            pairs.append((task.X[keep], task.y[keep]))
        return TaskSet(pairs, labels=self.labels)

    @cached_property
    def training_tasks(self) -> TaskSet:
        """What `trained` learns from."""
        return self.tasks(N_TRAINING_TASKS, seed=0)

    @cached_property
    def held_out(self) -> HeldOut:
        """Tasks that no check trains on."""
        tasks, k = self.tasks(N_HELD_OUT, seed=123), self.n_support
        support = TaskSet([(t.X[:k], t.y[:k]) for t in tasks], labels=self.labels)
        return HeldOut(support, [t.X[k:] for t in tasks], [t.y[k:] for t in tasks])

    def trained(self, meta: Any) -> Any:
        """Return a copy of the learner, trained once as its parameters say."""
        if meta not in self._trained:
            seeded = with_parameters(clone(meta), random_state=0)
            self._trained[meta] = seeded.fit(self.training_tasks)
        return copy.deepcopy(self._trained[meta])

    def quick(self, meta: Any, **parameters: Any) -> Any:
        """Return an unfitted copy that takes a few meta-updates only."""
        few: dict[str, Any] = {"max_iter": QUICK_UPDATES, "random_state": 0}
        few |= {"early_stopping": False, "verbose": 0}
        return with_parameters(clone(meta), **{**few, **parameters})


def _rotation() -> NDArray[np.float64]:
    """Return the orthogonal map from hidden directions to features."""
    square = np.random.default_rng(7).normal(size=(N_FEATURES, N_FEATURES))
    return np.linalg.qr(square)[0]


def with_parameters(meta: Any, **parameters: Any) -> Any:
    """Set those of the parameters that the learner has."""
    own = meta.get_params(deep=False)
    return meta.set_params(**{k: v for k, v in parameters.items() if k in own})


def answers(model: Any, X: Any) -> NDArray[Any]:
    """Return probabilities of a classifier, or predicted numbers."""
    proba = getattr(model, "predict_proba", None)
    return model.predict(X) if proba is None else proba(X)


def is_episodic(meta: Any) -> bool:
    """Whether a torch learner is trained by gradients on episodes."""
    return meta.__sklmeta_tags__().episodic


def learned(meta: Any, problem: Problem) -> Mapping[str, NDArray[Any]]:
    """Return copies of what was learned: weights of a torch learner, else answers.

    Answers are those for a few held-out tasks, given by a copy.
    """
    if is_episodic(meta):
        state = meta.learner_.state_dict()
        return {name: value.cpu().numpy().copy() for name, value in state.items()}
    fitted, held_out = copy.deepcopy(meta), problem.held_out
    pairs = zip(held_out.support[:3], held_out.X[:3], strict=True)
    return {
        f"answers for task {i}": answers(fitted.adapt(task.X, task.y), X)
        for i, (task, X) in enumerate(pairs)
    }


def assert_same_learned(
    got: Mapping[str, NDArray[Any]], want: Mapping[str, NDArray[Any]], message: str
) -> None:
    """Compare two results of `learned` bit by bit."""
    assert got.keys() == want.keys(), message
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=f"{message} ({name})")


def moved(got: Mapping[str, NDArray[Any]], want: Mapping[str, NDArray[Any]]) -> float:
    """Return the largest difference between two results of `learned`."""
    return max(
        (float(np.abs(got[n] - want[n]).max()) for n in want if want[n].size),
        default=0.0,
    )


def assert_same_answers(
    got: NDArray[Any], want: NDArray[Any], message: str, tolerance: float = 1e-6
) -> None:
    """Compare two results of `answers`."""
    np.testing.assert_allclose(
        got, want, rtol=tolerance, atol=tolerance, err_msg=message
    )


@contextmanager
def must_raise(errors: Any, message: str, match: str = "") -> Iterator[None]:
    """Fail with `message` unless the block raises one of `errors` that says `match`."""
    try:
        yield
    except errors as error:
        found = re.search(match, str(error))
        assert found, f"{message}: the error says {str(error)!r}, not {match!r}."
    else:
        raise AssertionError(f"{message}: nothing was raised.")
