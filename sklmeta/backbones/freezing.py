"""Weights of a backbone that are not trained, chosen by name, and what follows.

A layer none of whose weights is trained is *fixed*: it computes in meta-training what
it computes afterwards, so that batch normalisation keeps to its running averages, which
stay as they are, and nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sklmeta.backbones.task_batch_norm import TaskBatchNorm

__all__ = [
    "check_freeze",
    "freeze_layers",
    "is_fixed",
    "matching",
    "mode_of_fixed",
    "shown_names",
    "thaw",
]

_MARK = "_sklmeta_fixed"
N_SHOWN = 8


def check_freeze(freeze: Any) -> None:
    """Raise TypeError unless `freeze` says what to freeze.

    Parameters
    ----------
    freeze : bool, str, list of str or None
        As `freeze_layers` takes it.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if freeze is None or isinstance(freeze, (bool, str)):
        return
    if isinstance(freeze, (list, tuple)) and all(isinstance(p, str) for p in freeze):
        return
    raise TypeError(
        "freeze must be None, True (the whole backbone), a pattern of names of its "
        f"weights such as 'features.0.*', or a list of patterns. Got {freeze!r}."
    )


def matching(names: Iterable[str], patterns: str | Sequence[str]) -> set[str]:
    """Return the names that a pattern matches, as `fnmatch` reads it.

    Parameters
    ----------
    names : iterable of str
        Such as "features.0.weight".
    patterns : str or sequence of str
        The name of a layer, or a pattern of it, stands for all that is below it.

    Returns
    -------
    set of str

    Examples
    --------
    >>> from sklmeta.backbones.freezing import matching
    >>> sorted(matching(["conv1.weight", "conv10.bias", "fc.bias"], ["conv1", "f*"]))
    ['conv1.weight', 'fc.bias']
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return {
        name
        for name in names
        for pattern in patterns
        if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
    }


def freeze_layers(module: nn.Module, freeze: Any) -> None:
    """Freeze weights of a module by name, and fix the layers that have no others.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place. Weights without `requires_grad` count as frozen anyway.
    freeze : bool, str, list of str or None
        True for all weights, patterns as `matching` takes them, or None for none.

    Raises
    ------
    TypeError
        If `freeze` is something else.
    ValueError
        If there are no weights, or patterns match none or all of them.

    Examples
    --------
    >>> from torch import nn
    >>> from sklmeta.backbones.freezing import freeze_layers, is_fixed
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> freeze_layers(net, "0")
    >>> [name for name, weight in net.named_parameters() if weight.requires_grad]
    ['2.weight', '2.bias']
    >>> is_fixed(net[0]), is_fixed(net)
    (True, False)
    """
    check_freeze(freeze)
    weights = dict(module.named_parameters(remove_duplicate=False))
    if freeze is not None and freeze is not False:
        names = set(weights) if freeze is True else _chosen(list(weights), freeze)
        if not weights:
            raise ValueError(
                f"freeze={freeze!r}, and the backbone has no weights that could be "
                "frozen. Use freeze=None, or give a backbone with weights."
            )
        for name in names:
            weights[name].requires_grad_(False)
    for layer in module.modules():
        own = list(layer.parameters())
        if own and not any(weight.requires_grad for weight in own):
            _fix(layer)


def _chosen(names: list[str], patterns: str | Sequence[str]) -> set[str]:
    """Return the names to freeze: some, and not all, by patterns that match each."""
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if names and not matching(names, pattern):
            raise ValueError(
                f"freeze={patterns!r}: no weight of the backbone matches {pattern!r}. "
                f"They are called {shown_names(names)}; the name of a layer stands for "
                "all of its weights."
            )
    chosen = matching(names, patterns)
    if names and not chosen:
        raise ValueError(
            f"freeze={patterns!r} holds no pattern. Use freeze=None to freeze nothing, "
            f"or patterns of {shown_names(names)}."
        )
    if names and len(chosen) == len(names):
        raise ValueError(
            f"freeze={patterns!r} matches all {len(names)} weights of the backbone, "
            f"{shown_names(names)}. Use freeze=True if that is meant."
        )
    return chosen


def shown_names(names: Sequence[str]) -> str:
    """Return names in a line, a few of many."""
    few = ", ".join(map(repr, names[:N_SHOWN]))
    more = len(names) - N_SHOWN
    return f"{few} and {more} more" if more > 0 else few


def _fix(module: nn.Module) -> None:
    """Mark all layers of a module; without averages, normalisation cannot be fixed."""
    for layer in module.modules():
        normalises = isinstance(layer, (TaskBatchNorm, _BatchNorm))
        if not (normalises and layer.running_mean is None):
            vars(layer)[_MARK] = True
            layer.training = False


def is_fixed(layer: nn.Module) -> bool:
    """Whether a layer computes the same in meta-training and afterwards.

    Parameters
    ----------
    layer : torch.nn.Module

    Returns
    -------
    bool
    """
    return bool(vars(layer).get(_MARK, False))


def mode_of_fixed(module: nn.Module) -> None:
    """Put the fixed layers of a module back into evaluation mode.

    Parameters
    ----------
    module : torch.nn.Module
        Just set to training mode.
    """
    for layer in module.modules():
        if is_fixed(layer):
            layer.training = False


def thaw(module: nn.Module) -> nn.Module:
    """Let all weights of a module be trained, and none of its layers be fixed.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.

    Returns
    -------
    torch.nn.Module
        The module.
    """
    for weight in module.parameters():
        if weight.is_floating_point():
            weight.requires_grad_(True)
    for layer in module.modules():
        vars(layer).pop(_MARK, None)
    return module
