"""Weights that were trained elsewhere, loaded into a module by their names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sklmeta.backbones.freezing import matching, shown_names

__all__ = ["load_weights"]

Module = TypeVar("Module", bound=nn.Module)

# Older checkpoints lack it, and nothing but a plain average over batches reads it.
_COUNTER = "num_batches_tracked"
N_SHOWN = 4


def load_weights(
    module: Module,
    weights: Mapping[str, Tensor] | str | os.PathLike[str],
    *,
    prefix: str = "",
    ignore: str | Sequence[str] = (),
) -> Module:
    """Load pre-trained weights into a module, or say why they are not its own.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place; left as it is where weights are refused.
    weights : mapping of str to Tensor, str or path
        A state dict, or the file that `torch.save` has written one to. It is read with
        ``weights_only=True``, so that no code of the file is run.
    prefix : str, default=""
        What names begin with, and is dropped: "module." after
        `torch.nn.DataParallel`, or the part of a larger model, such as "encoder.".
        Weights with other names are left out.
    ignore : str or sequence of str, default=()
        Patterns of names, after the prefix is dropped, as `fnmatch` reads them; the
        name of a layer stands for all of its weights. They are neither loaded nor
        missed, as those of a head such as "fc".

    Returns
    -------
    torch.nn.Module
        The module.

    Raises
    ------
    TypeError
        If `module` is none, or `weights` no mapping of names to tensors.
    ValueError
        If the weights are of another architecture, with what is missing, unexpected
        and of another shape; if no name begins with the prefix; if a pattern matches
        nothing, or all; or if weights are not finite.

    See Also
    --------
    sklmeta.ProtoNetClassifier : Takes the module as `backbone`, and `freeze`.

    Notes
    -----
    The counters of batch normalisation (``num_batches_tracked``) may be missing. Models
    of timm and torchvision come with weights, and need a call only to lose their heads:
    ``timm.create_model("resnet18", pretrained=True, num_classes=0)``.

    Examples
    --------
    >>> from torch import nn
    >>> from sklmeta.backbones import load_weights
    >>> trained = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 10))
    >>> body = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    >>> body = load_weights(body, trained.state_dict(), ignore="2")
    >>> bool((body[0].weight == trained[0].weight).all())
    True
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a torch.nn.Module, got {type(module).__name__}. Of a "
            "function that makes one, give what it returns."
        )
    given = _without_prefix(_read(weights), prefix)
    own = module.state_dict()
    _refuse_idle_patterns(ignore, [*given, *own], own)
    given = {n: given[n] for n in given if n not in matching(given, ignore)}
    _refuse_other_numbers(given, own)
    skipped = matching(own, ignore)
    problems = [
        _listed("missing", [n for n in own if _is_missed(n, given, skipped)]),
        _listed("unexpected", [n for n in given if n not in own]),
        _listed("of another shape", _of_other_shape(own, given)),
    ]
    if any(problems):
        raise ValueError(
            f"The weights are not those of this {type(module).__name__}: "
            f"{'; '.join(filter(None, problems))}. Build the module that they were "
            "saved from; drop what names begin with by prefix=, and leave out heads by "
            "ignore=."
        )
    module.load_state_dict(given, strict=False)
    return module


def _read(weights: Any) -> dict[str, Tensor]:
    """Return a state dict, read from a file where a path is given."""
    if isinstance(weights, str | os.PathLike):
        path = os.fspath(weights)
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise  # says which file, and why
        except Exception as error:
            raise ValueError(
                f"{path!r} holds no state dict that can be read without running code "
                "of the file. Save the weights alone: torch.save(module.state_dict(), "
                f"path). torch says: {error}"
            ) from error
    if not isinstance(weights, Mapping):
        raise TypeError(
            "weights must be a state dict (names to tensors) or the path of one, got "
            f"{type(weights).__name__}."
        )
    if not all(isinstance(name, str) for name in weights):
        raise TypeError(
            "weights must map names to tensors, as a module's state_dict() does; got "
            f"keys such as {next(n for n in weights if not isinstance(n, str))!r}."
        )
    others = [n for n, value in weights.items() if not isinstance(value, Tensor)]
    if others:
        nested = [n for n in others if isinstance(weights[n], Mapping)]
        hint = f" Give weights[{nested[0]!r}]." if nested else ""
        raise TypeError(
            "weights must map names to tensors, and holds something else under "
            f"{shown_names(list(map(str, others)))}.{hint}"
        )
    return dict(weights)


def _without_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {n[len(prefix) :]: w for n, w in weights.items() if n.startswith(prefix)}
    if weights and not found:
        raise ValueError(
            f"No weight has a name that begins with prefix={prefix!r}, which ends in a "
            "dot where it is the name of a module. They are called "
            f"{shown_names(list(weights))}."
        )
    return found


def _refuse_idle_patterns(
    ignore: str | Sequence[str], names: Sequence[str], own: Mapping[str, Tensor]
) -> None:
    """Raise ValueError where a pattern matches nothing, or all are ignored."""
    for pattern in [ignore] if isinstance(ignore, str) else ignore:
        if not matching(names, pattern):
            raise ValueError(
                f"ignore={ignore!r}: no weight matches {pattern!r}. They are called "
                f"{shown_names(list(dict.fromkeys(names)))}."
            )
    if own and matching(own, ignore) == set(own):
        raise ValueError(
            f"ignore={ignore!r} matches all {len(own)} weights of the module, so that "
            "none would be loaded. Leave the module as it is if that is meant."
        )


def _refuse_other_numbers(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> None:
    """Raise ValueError where weights are not finite, or integers for floats."""
    for name, value in given.items():
        floats = name in own and own[name].is_floating_point()
        if floats and not value.is_floating_point():
            raise ValueError(
                f"The weight {name!r} holds {value.dtype}, and the module's has "
                f"{own[name].dtype}: it would lose its fractions. Give the weights "
                "that were trained, dequantised if need be."
            )
        if floats and not bool(value.isfinite().all()):
            raise ValueError(
                f"The weight {name!r} holds NaN or infinity. Was the net that it was "
                "saved from trained to its end?"
            )


def _is_missed(name: str, given: dict[str, Tensor], skipped: set[str]) -> bool:
    counts = name.rpartition(".")[2] == _COUNTER
    return name not in given and name not in skipped and not counts


def _of_other_shape(own: dict[str, Tensor], given: dict[str, Tensor]) -> list[str]:
    return [
        f"{name} {tuple(value.shape)}, needed {tuple(own[name].shape)}"
        for name, value in given.items()
        if name in own and value.shape != own[name].shape
    ]


def _listed(what: str, names: list[str]) -> str:
    """Return what is wrong with some names, a few of many; nothing of none."""
    if not names:
        return ""
    few = ", ".join(names[:N_SHOWN])
    more = f" and {len(names) - N_SHOWN} more" if len(names) > N_SHOWN else ""
    return f"{what}: {few}{more}"
