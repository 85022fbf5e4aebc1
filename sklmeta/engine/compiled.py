"""Compiled programs: recorded meta-updates as machine code, or as a CUDA graph.

Compiling takes seconds to minutes, once: programs are kept for the life of the process
and shared by all fits whose updates are the same operations on the same shapes, and
torch keeps compiled code on disk besides.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sklmeta.engine.fusion import spread
from sklmeta.engine.programs import Program, as_graph, replayed, replays
from sklmeta.engine.simplify import simplified
from sklmeta.engine.tracing import Recording, Value

__all__ = ["CompilationFailed", "captured", "compilations", "compiled"]

MOST_KEPT = 64
NO_COMPILER = "No working C++ compiler"

# The code of programs, by their operations, shapes and torch's number of threads.
_kept: OrderedDict[str, Callable[..., Sequence[Tensor]]] = OrderedDict()
_lock = threading.Lock()  # torch compiles one program at a time
_no_compiler: list[str] = []  # what torch said where it found none: once is enough


class CompilationFailed(Exception):
    """Says why torch could not compile a program."""


def compilations(
    recording: Recording, filled: dict[Value, bool], warn: Callable[[str], None]
) -> Iterator[Program]:
    """Yield programs of a recording: compiled, and as replays if that fails.

    Parameters
    ----------
    recording : Recording
    filled : dict of Value to bool
        Inputs that are known to hold one value everywhere.
    warn : callable
        Gets the reason where it cannot be compiled.

    Yields
    ------
    callable
        A `Program`.
    """
    simple = simplified(recording, filled)
    try:
        yield captured(simple) if _is_on_cuda(recording) else compiled(spread(simple))
    except CompilationFailed as failure:
        warn(str(failure))
    else:
        warn("what torch compiled gives other gradients than autograd")
    yield from replays(recording, filled)


def _is_on_cuda(recording: Recording) -> bool:
    return recording.specs[recording.inputs[0]].device.type == "cuda"


def compiled(recording: Recording) -> Program:
    """Return a program in machine code, by torch's compiler.

    Parameters
    ----------
    recording : Recording

    Returns
    -------
    callable
        A `Program`.

    Raises
    ------
    CompilationFailed
        With what torch says, such as that there is no C++ compiler.
    """
    key = f"{torch.get_num_threads()} {recording.text()}"
    with _lock:
        if key not in _kept:
            _kept[key] = _compile(recording)
            while len(_kept) > MOST_KEPT:
                _kept.popitem(last=False)
        _kept.move_to_end(key)
        run = _kept[key]
    constants = list(recording.constants.values())

    def program(inputs: Sequence[Tensor]) -> list[Tensor | None]:
        with torch.no_grad():
            return list(run(*inputs, *constants))

    return program


def _compile(recording: Recording) -> Callable[..., Sequence[Tensor]]:
    if _no_compiler:
        raise CompilationFailed(_no_compiler[0])
    failure: Exception | None = None
    # Without Python between the kernels, where this torch can do that.
    for options in ({"cpp_wrapper": True}, {}):
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                return _compiled_with(recording, options)
        except Exception as error:  # whatever goes wrong in there is no user's fault
            failure = error
            if NO_COMPILER in str(error):
                break
    said = f"{type(failure).__name__}: {_first_line(failure)}"
    if NO_COMPILER in said:
        _no_compiler.append(said)
    raise CompilationFailed(said)


def _compiled_with(
    recording: Recording, options: dict[str, Any]
) -> Callable[..., Sequence[Tensor]]:
    from torch._functorch import config  # these take a second to import
    from torch._inductor import compile_fx

    kernels: list[Any] = []

    def inner_compile(*args: Any, **kwargs: Any) -> Any:
        kernels.append(compile_fx.compile_fx_inner(*args, **kwargs))
        return kernels[-1]

    values = (*recording.inputs, *recording.constants)
    examples: list[Any] = [recording.specs[value].empty() for value in values]
    with config.patch(enable_autograd_cache=False):  # it holds what is around kernels
        whole: Any = compile_fx.compile_fx(
            as_graph(recording), examples, inner_compile, config_patches=options
        )
    if len(kernels) != 1:
        return lambda *inputs: whole(*inputs)
    # What is around it costs small nets as much as the kernels themselves: it would
    # take care of outputs that are inputs or views of them, which updates have none of.
    return lambda *inputs: kernels[0](list(inputs))


def _first_line(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "without a message"


def captured(recording: Recording) -> Program:
    """Return a program as a CUDA graph: one launch instead of hundreds.

    Parameters
    ----------
    recording : Recording
        On a CUDA device.

    Returns
    -------
    callable
        A `Program`.

    Raises
    ------
    CompilationFailed
        If an operation cannot be captured.
    """
    program = replayed(recording)
    # A graph computes on the same memory every time.
    inputs = [_example(recording, value) for value in recording.inputs]
    try:
        with _lock, torch.no_grad():
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # libraries set themselves up in the first calls
                    program(inputs)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = program(inputs)
    except RuntimeError as error:
        raise CompilationFailed(_first_line(error)) from error

    def replay(given: Sequence[Tensor]) -> list[Tensor | None]:
        with torch.no_grad():
            torch._foreach_copy_(inputs, list(given))
            graph.replay()
            return [None if one is None else one.clone() for one in outputs]

    return replay


def _example(recording: Recording, value: Value) -> Tensor:
    return recording.specs[value].empty().zero_()
