"""Parameters that all gradient-trained meta-learners share: their docs and checks."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from inspect import signature
from pickle import PicklingError
from typing import Any, TypeVar

import joblib
import numpy as np
import torch
from sklearn.utils import check_scalar
from skorch.callbacks import BatchScoring, Callback, EpochScoring, InputShapeSetter

from sklmeta.engine.byte_counts import as_bytes
from sklmeta.engine.training import OPTIMIZERS

__all__ = [
    "check_calibrate",
    "check_choice",
    "check_common_parameters",
    "check_domain_weights",
    "check_fraction",
    "check_integer",
    "check_mixed_precision",
    "check_not_negative",
    "check_positive",
    "filled_in",
    "resolve_device",
    "same_value",
    "shown",
    "with_common_parameters",
]

NORMALIZE_Y = """\
normalize_y : bool or "task", default=True
    Scale targets to mean 0 and standard deviation 1 over the meta-training tasks;
    "task" takes level and spread from each task's support rows, shrunk towards what the
    meta-training tasks have in common.

"""

CALIBRATE_NUMBERS = """\
calibrate : bool or float, default=False
    Hold tasks out of meta-training, and multiply standard deviations by what makes
    intervals of this probability hold as large a share of their query targets; True
    stands for 0.9. Acts in `fit` alone; `partial_fit` goes back to 1. With
    `early_stopping` the same tasks choose the weights and this factor, which may then
    err a little towards too sure.

"""

CALIBRATE_LABELS = """\
calibrate : bool, default=False
    Hold tasks out of meta-training, and divide logits by the temperature of least
    cross-entropy there. Acts in `fit` alone; `partial_fit` goes back to 1. With
    `early_stopping` the same tasks choose the weights and the temperature, which may
    then err a little towards too sure.

"""

COMMON_PARAMETERS = """\
backbone_from : fitted meta-learner, default=None
    Start from a copy of the backbone of this meta-learner, instead of `backbone`. Rows
    are scaled as it scales them, whatever `normalize_x` says. `sklearn.base.clone`
    keeps it fitted; as a value that is searched over scikit-learn empties it.

freeze : bool, str, list of str or None, default=None
    Weights of the backbone that are not trained: all (True), or those whose names match
    a pattern as `fnmatch` reads it; the name of a layer, such as "features.0", stands
    for all of its weights. Layers without other weights compute in meta-training as
    afterwards: batch normalisation by its running averages, which stay as they are,
    and without dropout. So it is too with modules that come with frozen weights
    (`requires_grad_(False)`). Where the whole backbone is frozen, and learners allow
    it, each row passes it once in `fit`; callbacks then see the learner without it.

n_way : int, (int, int) or None, default=None
    Ways of a training episode, with local labels: a number, a range drawn per episode,
    or None for all classes of the task (5 for a `ClassPool`).

n_shot : int or (int, int), default=5
    Support rows of an episode: per class with local labels, per task with shared
    labels and in regression. `score` uses it too.

n_query : int, (int, int) or None, default=15
    At most this many query rows of a training episode, counted like `n_shot`; None
    means all other rows.

support_order : {"random", "first"}, default="random"
    "first" takes the first `n_shot` rows of a task as support and only later rows as
    query, for data in time order.

small_tasks : {"shrink", "drop", "raise"}, default="shrink"
    What to do with tasks that have no query row left after `n_shot` support rows: use
    fewer support rows, leave the task out, or refuse.

domain_weights : "equal" or dict of domain to weight, default=None
    How often a task, or a class of a `ClassPool`, of each domain is trained on (see
    `TaskSet.from_domains`): None takes every task as often as any other, "equal" every
    domain; a dict has a share for each, up to a factor, and what has a share of 0 is
    left out altogether, of how rows are scaled, too. Held-out tasks are drawn alike
    whatever the weights, and `partial_fit` takes each task once.

image_shape : tuple of int, default=None
    (H, W) or (H, W, C): rows of `X` are flattened images of that shape.

normalize_x : bool, default=True
    Scale features of tables to mean 0 and standard deviation 1 over the meta-training
    tasks; values beyond 3 standard deviations go on like a logarithm, since inner loops
    diverge on long tails. Images are left alone (uint8 is scaled to [0, 1]).

outer_lr : float, default=1e-3
    Step size of the outer loop.

optimizer : {"adam", "adamw", "rmsprop", "sgd"} or torch optimizer class, \
default="adam"
    Optimizer of the outer loop.

batch_size : int, default=16
    Tasks per meta-update.

max_iter : int, default=1000
    Number of meta-updates.

eval_every : int, default=100
    Meta-updates per epoch: one row of `history_`, one line of progress, one look at
    held-out tasks.

early_stopping : bool, default=False
    Hold tasks out, stop when their loss no longer falls, and keep the best weights.

validation_fraction : float, default=0.1
    Share of tasks to hold out for early stopping<or> (at least 5 tasks,
    or `n_way` classes), unless `fit` gets `validation_tasks`.

n_iter_no_change : int, default=10
    Epochs without improvement before early stopping.

callbacks : list of skorch callbacks, default=None
    Called during meta-training, where a batch is the episodes of one meta-update.
    Searches clone them. Those that read rows (`EpochScoring` with caching,
    `BatchScoring`, `InputShapeSetter`) are refused: hold tasks out instead.

device : str or torch.device, default="auto"
    Where to compute; "auto" is "cuda" where there is one, else "cpu". Small nets on
    rows of a table are often faster on a CPU than on any GPU. Results of a GPU are
    reproducible up to rounding.

compile : bool, default=False
    Compile meta-updates of nets on rows: with torch's compiler on a CPU, which needs a
    C++ compiler and takes some seconds for each shape of episodes (rows of ragged
    tasks are padded to powers of two, so that there are few), and as CUDA graphs on a
    GPU. Pays in long runs. Compiled code is kept for later fits, and by torch on
    disk; `history_` says how long it took in each epoch, `compile_dur`. Nets with
    convolutions or recurrent layers are left as they are on a CPU. What cannot be
    compiled goes on without it, after a `CompilationWarning`.

mixed_precision : bool, default=False
    Run the backbone in bfloat16 in meta-training, by torch's autocast; weights,
    gradients and losses stay in single precision, and so do adapting and predicting
    afterwards. Made for wide nets on devices with bfloat16 units: small nets and
    convolutions on a CPU can become slower. Memory stays about the same.

memory_limit : int, str or None, default=None
    Bytes that a meta-update, or adapting many tasks at once, may take: an int, or a
    string such as "4GB". Tasks of a batch are taken in parts that fit, with the same
    result up to rounding; `fit` refuses what does not fit with one task. None stands
    for half of what is free on the device; where the `backbone` draws random numbers,
    as dropout does, for 2 GB, since other parts have other draws.

warm_start : bool, default=False
    Whether `fit` goes on from the last fit's weights, for `max_iter` more updates.

random_state : int, RandomState instance or None, default=None
    Seed of weights and episodes. An int gives the same result every time; with dropout
    in the `backbone`, only while no other thread draws from torch's global generator.

verbose : int, default=0
    Print a line per epoch if not 0.
"""

COMMON_ATTRIBUTES = """\
learner_ : torch.nn.Module
    The meta-learned torch learner.

history_ : skorch.history.History
    One row per epoch: `train_loss`, `dur` and, with held-out tasks, `valid_loss`.
    With ``compile=True`` also `compile_dur`, the seconds of `dur` that compiling took.

n_iter_ : int
    Number of meta-updates made.

n_features_in_ : int
    Number of features seen during `fit`.

feature_names_in_ : ndarray of shape (n_features_in_,)
    Names of the features; only if `X` had string column names.

adapted_ : few-shot estimator
    What the last `adapt` returned; `predict` uses it.
"""

Class = TypeVar("Class", bound=type)


def with_common_parameters(cls: Class) -> Class:
    """Write the shared parameters and attributes into a class docstring.

    The docstring holds the lines ``<common parameters>`` and ``<common attributes>``.
    """
    classifies = getattr(cls, "_classifies", True)
    own, use = "", ""
    if hasattr(cls, "_finish") and "calibrate" in signature(cls).parameters:
        own += CALIBRATE_LABELS if classifies else CALIBRATE_NUMBERS
        use = " or `calibrate`"
    own += "" if classifies else NORMALIZE_Y
    common = COMMON_PARAMETERS.replace("<or>", use)
    return filled_in(
        cls,
        {
            "<common parameters>": own + common,
            "<common attributes>": COMMON_ATTRIBUTES,
        },
    )


def filled_in(cls: Class, texts: Mapping[str, str]) -> Class:
    """Write texts into a class docstring where it has lines that stand for them."""
    doc = cls.__doc__ or ""
    for mark, text in texts.items():
        doc = doc.replace(mark, text.rstrip().replace("\n", "\n    ").lstrip())
    cls.__doc__ = "\n".join(line.rstrip() for line in doc.split("\n"))
    return cls


def check_common_parameters(estimator: Any) -> None:
    """Check the shared parameters of an estimator; episodes check their own.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter, what was got and what is expected.
    """
    check_integer("max_iter", estimator.max_iter, estimator._least_updates)
    for name in ("batch_size", "eval_every", "n_iter_no_change"):
        check_integer(name, getattr(estimator, name), 1)
    for name in (
        *("normalize_x", "early_stopping", "compile", "mixed_precision"),
        "warm_start",
    ):
        check_choice(name, getattr(estimator, name), (True, False))
    check_domain_weights(estimator.domain_weights)
    check_positive("outer_lr", estimator.outer_lr)
    as_bytes(estimator.memory_limit)
    check_fraction("validation_fraction", estimator.validation_fraction)
    _check_optimizer(estimator.optimizer)
    _check_callbacks(estimator.callbacks)
    shape = estimator.image_shape
    if shape is not None and (
        not isinstance(shape, (tuple, list))
        or len(shape) not in (2, 3)
        or not all(isinstance(n, numbers.Integral) and int(n) > 0 for n in shape)
    ):
        raise ValueError(f"image_shape must be (H, W) or (H, W, C), got {shape!r}.")


def check_domain_weights(weights: Any) -> None:
    """Raise TypeError or ValueError unless `weights` can weigh domains."""
    if isinstance(weights, Mapping):
        for domain, weight in weights.items():
            check_not_negative(f"domain_weights[{domain!r}]", weight)
        if not sum(weights.values()) > 0:
            raise ValueError(
                "domain_weights must have at least one weight above 0, got "
                f"{dict(weights)!r}."
            )
    elif weights is not None and not (isinstance(weights, str) and weights == "equal"):
        raise (ValueError if isinstance(weights, str) else TypeError)(
            "domain_weights must be None, 'equal', or a dict of a weight for each "
            f"domain, got {shown(weights)}."
        )


def _check_optimizer(optimizer: Any) -> None:
    if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
        return
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        raise ValueError(
            f"optimizer must be one of {sorted(OPTIMIZERS)} or a torch.optim.Optimizer "
            f"class, got {optimizer!r}."
        )


def _check_callbacks(callbacks: Any) -> None:
    if callbacks is None:
        return
    if not isinstance(callbacks, (list, tuple)):
        raise TypeError(f"callbacks must be a list, got {callbacks!r}.")
    for item in callbacks:
        callback = item[-1] if isinstance(item, tuple) and len(item) == 2 else item
        kind = callback if isinstance(callback, type) else type(callback)
        if not issubclass(kind, Callback):
            raise TypeError(
                "callbacks must hold skorch callbacks, or pairs of a name and one, "
                f"got {item!r}."
            )
        if issubclass(kind, (BatchScoring, InputShapeSetter)) or (
            issubclass(kind, EpochScoring) and getattr(callback, "use_caching", True)
        ):
            raise ValueError(
                f"callbacks hold {kind.__name__}, which reads rows and labels; in "
                "meta-training a batch holds episodes. The loss on held-out tasks is "
                "in history_ with early_stopping=True or fit's validation_tasks=. For "
                "a score of your own, use EpochScoring with a function (net, X, y) and "
                "use_caching=False; net.module_ is the learner."
            )


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    choices = list(choices)
    # Arrays are compared entry by entry: none of them is a choice.
    if getattr(value, "ndim", 0) > 0 or value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {shown(value)}.")


def check_calibrate(value: Any, classifies: bool) -> None:
    """Raise TypeError or ValueError unless `value` says whether, or how, to calibrate.

    True and False do; of regressors also the probability of the intervals to be right.
    """
    if isinstance(value, (bool, np.bool_)):
        return
    is_number = isinstance(value, numbers.Real)
    if is_number and not classifies and 0 < value < 1:
        return
    meant = (
        "True or False for a classifier, whose temperature needs no probability; a "
        "number between 0 and 1 is for regressors"
        if classifies
        else "True, False or a number between 0 and 1, the probability of the "
        "intervals to make right; True stands for 0.9"
    )
    error = ValueError if is_number else TypeError
    raise error(f"calibrate must be {meant}. Got {shown(value)}.")


def check_integer(name: str, value: Any, least: int) -> None:
    """Raise TypeError or ValueError unless `value` is an integer >= `least`."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    check_scalar(value, name, numbers.Integral, min_val=least)


def check_positive(name: str, value: Any) -> None:
    """Raise TypeError or ValueError unless `value` is a finite number above 0."""
    _check_finite(name, value, "neither")


def check_not_negative(name: str, value: Any) -> None:
    """Raise TypeError or ValueError unless `value` is a finite number, 0 or above."""
    _check_finite(name, value, "left")


def _check_finite(name: str, value: Any, include_boundaries: str) -> None:
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    check_scalar(
        value, name, numbers.Real, min_val=0, include_boundaries=include_boundaries
    )
    if not value < float("inf"):  # nan passes above
        raise ValueError(f"{name} must be finite, got {value!r}.")


def shown(value: Any) -> str:
    """Return the repr of a value, also of a pipeline, in one line."""
    return " ".join(repr(value).split())


def same_value(a: Any, b: Any) -> bool:
    """Whether two parameters are equal; estimators and other objects by their state.

    Copies are equal to what they were copied from, although objects such as KFold or
    RandomState, and not-a-number, say they are not.
    """
    if a is b:
        return True
    alike = type(a) is type(b) and not isinstance(a, type)
    if alike and hasattr(a, "get_params"):
        return same_value(a.get_params(deep=False), b.get_params(deep=False))
    if alike and isinstance(a, dict):
        return a.keys() == b.keys() and all(same_value(a[key], b[key]) for key in a)
    if alike and isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_value, a, b))
    if alike and isinstance(a, float) and np.isnan(a) and np.isnan(b):
        return True
    try:
        compared_by_identity: Any = object.__eq__
        if alike and type(a).__eq__ is compared_by_identity:
            return joblib.hash(a) == joblib.hash(b)
        return np.shape(a) == np.shape(b) and bool(np.all(a == b))
    except (TypeError, ValueError, RuntimeError, AttributeError, PicklingError):
        return False


def check_mixed_precision(device: torch.device) -> None:
    """Raise ValueError unless a device computes in bfloat16.

    Raises
    ------
    ValueError
        Naming the device.
    """
    available = torch.amp.is_autocast_available(device.type)
    if device.type == "cuda":
        available = torch.cuda.is_bf16_supported(including_emulation=False)
    if not available:
        raise ValueError(
            f"mixed_precision=True needs a device that computes in bfloat16, which "
            f"{str(device)!r} does not. Use mixed_precision=False."
        )


def check_fraction(name: str, value: Any, *, boundaries: str = "neither") -> None:
    """Raise TypeError or ValueError unless `value` is a number between 0 and 1."""
    check_scalar(
        value, name, numbers.Real, min_val=0, max_val=1, include_boundaries=boundaries
    )
    if np.isnan(float(value)):
        raise ValueError(f"{name} must be between 0 and 1, got {value!r}.")


def resolve_device(device: Any) -> torch.device:
    """Return the torch device that `device` names.

    Raises
    ------
    ValueError
        If there is no such device here.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except Exception as error:
        raise ValueError(
            f"device={device!r} is not available here ({error}). Use device='auto' or "
            "'cpu'."
        ) from error
    return resolved
