"""Whether a user's module can be meta-trained, and how: tried out before training.

A meta-update is run on two small tasks, on a copy. What torch cannot vectorise, or
vectorises to another result, is then run task by task; attention is computed by its
formula, where fused kernels have no second derivatives; and what cannot work is
refused, naming the layer and what to do. Nets of layers known to work are not tried.
"""

from __future__ import annotations

import copy
import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sklmeta.backbones.conv import ConvNet
from sklmeta.backbones.initialization import cuda_devices
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.dense import is_dense
from sklmeta.engine.layers import layer_not_twice, shown_layer, watch
from sklmeta.engine.learner import Learner
from sklmeta.engine.mapping import mapping_method

__all__ = ["no_trace", "try_out"]

N_TASKS, N_SUPPORT, N_QUERY = 2, 4, 3

# What torch says of an operation whose gradient has none.
_NOT_TWICE = (
    re.compile(r"derivative for '?(?:aten::)?(\w+)'? is not implemented"),
    re.compile(r"differentiate twice a function.*?(once_differentiable)", re.DOTALL),
    re.compile(r"(\w+) does not (?:currently )?support double backward"),
)
_ATTENTION = re.compile(r"scaled_dot_product|multi_head_attention|transformer_encoder")
_IN_PLACE = "modified by an inplace operation"
_SLOW_VMAP = "There is a performance drop"
_PRECISION = (
    " Its forward must work in the precision of the rows it is given, which is double "
    "for predictions on tables: take dtype and device from them."
)
_HINTS = {
    "index out of range": " An embedding takes the integers from 0 to n - 1: leave "
    "columns as they are with normalize_x=False.",
    "dtype": _PRECISION,
    "scalar type": _PRECISION,
    "device": " Tensors that forward needs must be buffers (register_buffer), which "
    "move with the module.",
}


@contextmanager
def no_trace(module: nn.Module) -> Iterator[None]:
    """Put modes, buffers and torch's global generators back at the end."""
    modes = [(layer, layer.training) for layer in module.modules()]
    buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
    with torch.random.fork_rng(devices=cuda_devices()):
        try:
            yield
        finally:
            for layer, training in modes:
                layer.training = training
            with torch.no_grad():
                for name, value in buffers.items():
                    if not torch.equal(module.get_buffer(name), value):
                        module.get_buffer(name).copy_(value)


def try_out(learner: Learner, episodes: Episodes) -> None:
    """Find out how a learner's modules are to be run, or refuse them.

    Sets `tasks_apart`, `plain_attention` and `draws_randomly` of the learner, which is
    left as it is otherwise. A learner of known layers is not run.

    Parameters
    ----------
    learner : Learner
        On the device that it is to be trained on.
    episodes : Episodes
        A batch as training has them; two tasks are used, and a few rows of each.

    Raises
    ------
    ValueError
        If the learner cannot be trained with its backbone.
    """
    module = getattr(learner, "backbone", None)
    if not isinstance(module, nn.Module) or _is_known(module):
        return
    with torch.random.fork_rng(devices=cuda_devices()):
        _Trial(learner, module, _small(episodes, learner, _dtype(episodes))).run()


def _is_known(module: nn.Module) -> bool:
    return type(module) is ConvNet or is_dense(module)


def _dtype(episodes: Episodes) -> torch.dtype:
    """Return the precision to try: that of predictions, double for tables."""
    x = episodes.support.x
    double = x.dim() == 3 and x.device.type != "mps"
    return torch.float64 if double else torch.float32


def _small(episodes: Episodes, learner: Learner, dtype: torch.dtype) -> Episodes:
    """Return two tasks of equal rows, of which there may be one twice."""
    part = next(episodes.parts(N_TASKS, equal_rows=learner.needs_equal_rows))
    if len(part) < N_TASKS:
        part = part[torch.zeros(N_TASKS, dtype=torch.int64)]
    support = _cut(part.support, N_SUPPORT, dtype)
    return Episodes(support, _cut(part.query, N_QUERY, dtype))


def _cut(rows: Rows, n_rows: int, dtype: torch.dtype) -> Rows:
    """Return a copy of the first rows of each task."""
    y = rows.y[:, :n_rows]
    y = y.to(dtype) if y.is_floating_point() else y
    x = rows.x[:, :n_rows].to(dtype, copy=True)
    return Rows(x, y, rows.mask[:, :n_rows], rows.n_way)


class _Trial:
    """Runs a copy of a learner on small episodes, and sets flags of the learner."""

    def __init__(
        self, learner: Learner, backbone: nn.Module, episodes: Episodes
    ) -> None:
        self.learner = learner
        self.backbone = backbone
        self.episodes = episodes
        self.dtype = episodes.support.x.dtype
        self.probe = copy.deepcopy(learner).at_full_cost().to(self.dtype)
        self.probe.mixed_precision = False
        self.probe.budget = None

    def run(self) -> None:
        """Try every way that the learner is going to be used in."""
        way = mapping_method(self.learner, self.episodes.support.x.device)
        self.probe.tasks_apart = True
        self.probe.train()
        draws = self._draws(self._meta_gradient, "meta-training")
        self._refuse_detached()
        self._refuse_kept()
        moved = _moved(self.probe, self.learner)
        if getattr(self.probe, "checkpoint_steps", False):
            self._try_checkpoints()
        self._try_predicting()
        self.learner.draws_randomly = draws
        self.learner.plain_attention = self.probe.plain_attention
        if way != "loop":
            self.learner.tasks_apart = bool(moved) or not self._vectorises()
        if self.learner.mixed_precision:
            self._try_mixed_precision()

    def _try_predicting(self) -> None:
        self.probe.eval()
        before = copy.deepcopy(self.probe)
        if self._draws(self._predict, "predicting"):
            raise ValueError(
                "The backbone draws random numbers in evaluation mode, too: a "
                "prediction would be another one every time. Draw only in training "
                "mode (if self.training)."
            )
        moved = _moved(self.probe, before)
        if moved:
            raise ValueError(
                f"The backbone changes its buffers {moved} in evaluation mode, too: a "
                "prediction would depend on those made before. Change them only in "
                "training mode (if self.training)."
            )
        self._refuse_mixing()

    def _refuse_mixing(self) -> None:
        """Refuse predictions that depend on the query rows around them."""
        if self.probe.transductive and self.probe.needs_equal_rows:
            return
        x = torch.cat([self.episodes.query.x, self.episodes.support.x], 1)
        whole, again, without = (
            self._predict(rows)[:, : x.shape[1] - 1] for rows in (x, x, x[:, :-1])
        )
        if not self._alike(whole, again):
            raise ValueError(
                "The backbone predicts something else for the same rows when it is "
                "asked again, in evaluation mode, too. It must not count its calls or "
                "draw random numbers there (if self.training)."
            )
        if not self._alike(whole, without):
            raise ValueError(
                "The backbone's features of a row depend on the other rows that it is "
                "given (as with x - x.mean(0)), and a prediction must not depend on "
                "the other query rows. Take statistics over the features of each row "
                "(torch.nn.LayerNorm), or over rows by torch.nn.BatchNorm1d or "
                "BatchNorm2d: queries are then normalised by the support's."
            )

    def _alike(self, a: Tensor, b: Tensor) -> bool:
        """Whether outputs are the same but for rounding."""
        tolerance = 1e-6 if self.dtype == torch.float64 else 2e-3
        size = a.nan_to_num(0.0, 0.0, 0.0).abs().max().item()
        return torch.allclose(a, b, rtol=0.0, atol=tolerance * size, equal_nan=True)

    def _refuse_detached(self) -> None:
        """Refuse modules with weights to train whose output has no gradient."""
        if not any(p.requires_grad for p in self._module.parameters()):
            return
        seen: list[bool] = []
        hook = self._module.register_forward_hook(
            lambda module, rows, features: seen.append(features.requires_grad)
        )
        self._meta_gradient()
        hook.remove()
        if seen and not any(seen):
            raise ValueError(
                "The backbone has weights to train, and its output has no gradient. "
                "Leave out detach(), torch.no_grad() and .data in its forward; freeze "
                "weights that are not to be trained (module.requires_grad_(False))."
            )

    def _refuse_kept(self) -> None:
        """Refuse modules that cannot be copied after a pass, since copies are used."""
        if _can_be_copied(self.probe):
            return
        for name, layer in self._module.named_modules():
            held = {**vars(layer), **layer._buffers, "_buffers": None, "_modules": None}
            kept = [n for n, value in held.items() if not _can_be_copied(value)]
            if kept:
                raise ValueError(
                    f"The backbone's {shown_layer(self._module, name)} keeps what "
                    f"cannot be copied in its attribute {kept[0]!r}, a "
                    f"{type(held[kept[0]]).__name__}. Do not keep it; a tensor may be "
                    "kept without its graph (value.detach())."
                )

    def _try_checkpoints(self) -> None:
        """Refuse `checkpoint_steps` where taking a step twice has other gradients."""
        found = []
        for steps in (True, False):
            probe: Any = copy.deepcopy(self.probe)
            probe.checkpoint_steps = steps
            with torch.random.fork_rng(devices=cuda_devices()):
                found.append(_meta_gradient(probe, self.episodes))
        finite = all(bool(t.isfinite().all()) for t in itertools.chain(*found))
        if finite and not self._same(*found):
            raise ValueError(
                "checkpoint_steps=True computes inner steps twice, and the backbone "
                "does something else the second time: it changes state that is no "
                "buffer. Keep it in buffers (register_buffer), or use "
                "checkpoint_steps=False."
            )

    def _try_mixed_precision(self) -> None:
        self.probe = copy.deepcopy(self.learner).at_full_cost().train()
        self.probe.budget = None
        self.episodes = _small(self.episodes, self.learner, torch.float32)
        self._checked(self._meta_gradient, "meta-training with mixed_precision=True")

    def _vectorises(self) -> bool:
        """Whether tasks taken together have the gradients of tasks taken apart."""
        self.probe.tasks_apart = True
        self._checked(self._meta_gradient, "adapting")
        expected = self._meta_gradient()
        self.learner.plain_attention = self.probe.plain_attention
        self.probe.tasks_apart = False
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = self._meta_gradient()
                self.probe.train()
                self._meta_gradient()
            except Exception as error:  # whatever it is, one task at a time works
                self.probe.eval()
                return self._falls_back(error) and self._vectorises()
        if any(_SLOW_VMAP in str(warning.message) for warning in caught):
            return False
        return self._same(found, expected) and _can_be_copied(self.probe)

    def _same(self, found: list[Tensor], expected: list[Tensor]) -> bool:
        """Whether losses and gradients are the same but for rounding."""
        tolerance = 1e-6 if self.dtype == torch.float64 else 2e-3
        return len(found) == len(expected) and all(
            bool((a - b).norm() <= tolerance * (1e-6 + b.norm()))
            for a, b in zip(found, expected, strict=False)
        )

    # Passes ----------------------------------------------------------------------

    def _meta_gradient(self) -> list[Tensor]:
        return _meta_gradient(self.probe, self.episodes)

    def _predict(self, x: Tensor | None = None) -> Tensor:
        x = self.episodes.query.x if x is None else x
        with torch.no_grad():
            state = self.probe.adapt(self.episodes.support)
            return self.probe.predict(state, x)

    def _checked(self, run: Callable[[], Any], what: str) -> None:
        """Run something; refuse what fails, or writes into rows."""
        support, query = self.episodes.support.x, self.episodes.query.x
        before = support.clone(), query.clone()
        try:
            run()
        except (ValueError, MemoryError):
            raise  # says already what is wrong
        except Exception as error:
            if self._falls_back(error):
                return self._checked(run, what)
            raise ValueError(self._refusal(error, what, run)) from error
        if not (torch.equal(support, before[0]) and torch.equal(query, before[1])):
            raise ValueError(self._writes("the rows of the task.", run))
        return None

    def _falls_back(self, error: Exception) -> bool:
        """Take to attention by its formula, if that was the trouble."""
        if self.probe.plain_attention or not _ATTENTION.search(str(error)):
            return False
        self.probe.plain_attention = True
        return True

    def _draws(self, run: Callable[[], Any], what: str) -> bool:
        """Run something and say whether it drew from torch's global generators."""
        before = _random_state(self.episodes)
        self._checked(run, what)
        return not torch.equal(_random_state(self.episodes), before)

    # What to say -----------------------------------------------------------------

    def _refusal(self, error: Exception, what: str, run: Callable[[], Any]) -> str:
        message = str(error).strip().removesuffix(".")
        if _IN_PLACE in message:
            return self._writes(f"torch says: {message}.", run)
        for pattern in _NOT_TWICE:
            found = pattern.search(message)
            if found is not None:
                return self._not_twice(found[1], run)
        hint = next((text for key, text in _HINTS.items() if key in message), "")
        running = watch(self._module, run).running
        where = f" at its {shown_layer(self._module, running[-1])}" if running else ""
        return (
            f"The backbone fails in {what}{where}: {type(error).__name__}: {message}."
            f"{hint}"
        )

    def _not_twice(self, operation: str, run: Callable[[], Any]) -> str:
        name = layer_not_twice(self._module, watch(self._module, run))
        where = "" if name is None else f"'s {shown_layer(self._module, name)}"
        if hasattr(self.learner, "first_order"):
            remedy = "first_order=True, or another operation in its place"
        else:
            remedy = (
                "another operation in its place, or a learner that needs no second "
                "derivatives: MAML with first_order=True, or Reptile"
            )
        return (
            f"The backbone{where} has an operation that cannot be differentiated "
            f"twice ({operation}), and second-order meta-gradients need that. Use "
            f"{remedy}."
        )

    def _writes(self, why: str, run: Callable[[], Any]) -> str:
        writers = watch(self._module, run).writers
        where = f"'s {shown_layer(self._module, writers[0])}" if writers else ""
        return (
            f"The backbone{where} writes in place into a tensor that is used again: "
            f"{why} Leave out inplace=True, and operations that end in an underscore, "
            "or work on a copy (x = x.clone())."
        )

    @property
    def _module(self) -> nn.Module:
        module: nn.Module = self.probe.get_submodule("backbone")
        return module


def _meta_gradient(learner: Learner, episodes: Episodes) -> list[Tensor]:
    """Return the meta-loss and its gradients."""
    learner.zero_grad(set_to_none=True)
    with torch.enable_grad():
        loss = learner.meta_loss(episodes).sum()
        if loss.requires_grad:
            # torch.autograd.grad would pass by what is not differentiable twice.
            loss.backward()
    gradients = [p.grad for p in learner.parameters()]
    return [loss.detach(), *(g.clone() for g in gradients if g is not None)]


def _can_be_copied(value: Any) -> bool:
    """Whether there is nothing in it of a pass that is over, such as its graph."""
    try:
        copy.deepcopy(value)
    except Exception:  # torch raises errors of many kinds
        return False
    return True


def _moved(learner: nn.Module, before: nn.Module) -> list[str]:
    """Return the buffers of a learner that are not as they were.

    What a learner itself makes for meta-training, and does not keep, counts for none.
    """
    earlier, kept = dict(before.named_buffers()), learner.state_dict().keys()
    return [
        name
        for name, buffer in learner.named_buffers()
        if name in kept or name.startswith("backbone.")
        if not torch.equal(buffer, earlier[name].to(buffer))
    ]


def _random_state(episodes: Episodes) -> Tensor:
    device = episodes.support.x.device
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)
