"""Constructors that pass on what they do not name, with every parameter in view.

An algorithm's ``__init__`` names its own parameters and passes the others on as
``**common``. scikit-learn, help and documentation read signatures, which must name
them all: `spell_out` writes them down.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any

__all__ = ["spell_out"]


def spell_out(cls: type, base: type) -> None:
    """Give a class an ``__init__`` whose signature names what all its parents take.

    The order is that of the docs: the algorithm's own parameters, those of mixins,
    those of `base`.

    Parameters
    ----------
    cls : type
        The class; one without an ``__init__`` gets one that passes everything on.
    base : type
        The parent whose ``__init__`` takes no further parameters by ``**``.
    """
    if "__init__" not in vars(cls):
        _pass_on(cls)
    merged: dict[str, inspect.Parameter] = {}
    for owner in _in_order(cls, base):
        for name, parameter in _own(owner).items():
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                merged.setdefault(name, parameter)
    init = vars(cls)["__init__"]
    init.own_parameters = _own(cls)
    ranked = sorted(merged.values(), key=lambda parameter: parameter.kind)
    init.__signature__ = inspect.Signature(ranked)
    cls.__init__ = _refusing_others(init, cls.__name__)  # type: ignore[misc]


def _refusing_others(init: Callable[..., None], owner: str) -> Callable[..., None]:
    """Return an ``__init__`` that names its class, and what may have been meant."""
    parameters_of = inspect.signature(init).parameters
    known = list(parameters_of)
    first = [n for n, p in parameters_of.items() if p.kind is p.POSITIONAL_OR_KEYWORD]

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **parameters: Any) -> None:
        if len(args) >= len(first):  # `self` is one of them
            raise TypeError(
                f"{owner}.__init__() takes {', '.join(first[1:])} by position, got "
                f"{len(args)} values; name the other parameters."
            )
        for name in parameters:
            if name not in known and not _takes(type(self), name):
                near = get_close_matches(name, known, n=1)
                meant = f" Did you mean {near[0]!r}?" if near else ""
                raise TypeError(
                    f"{owner}.__init__() got an unexpected keyword argument {name!r}."
                    f"{meant}"
                )
        init(self, *args, **parameters)

    return __init__


def _takes(cls: Any, name: str) -> bool:
    """Whether a class has a parameter: where parents meet again, it is of a sibling."""
    return name in inspect.signature(cls.__init__).parameters


def _in_order(cls: type, base: type) -> Iterator[type]:
    """Yield whose parameters a class takes: subclasses of `base`, mixins, `base`."""
    owners = []
    for owner in cls.__mro__:
        if "__init__" in vars(owner):
            owners.append(owner)
            if not _passes_on(owner):
                break
    yield from (one for one in owners if issubclass(one, base) and one is not base)
    yield from (one for one in owners if not issubclass(one, base))
    yield from (one for one in owners if one is base)


def _own(cls: type) -> dict[str, inspect.Parameter]:
    """Return the parameters as the class itself writes them."""
    init = vars(cls)["__init__"]
    written = getattr(init, "own_parameters", None)
    return written or dict(inspect.signature(init).parameters)


def _passes_on(cls: type) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in _own(cls).values())


def _pass_on(cls: Any) -> None:
    def __init__(self: Any, *args: Any, **parameters: Any) -> None:
        super(cls, self).__init__(*args, **parameters)

    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    __init__.__module__ = cls.__module__
    cls.__init__ = __init__
