r"""Networks whose weights are drawn from Gaussians, several for every task.

The weights that are meta-learned have independent normal densities; a draw is

.. math:: \theta_k = \mu + \sigma \circ \epsilon_k, \qquad \epsilon_k \sim N(0, I),

and the :math:`K` networks of a task are equally likely: its prediction is their
mixture, given by its mean and variance, or by its class probabilities.

Noise is drawn in one place. When adapting, the :math:`\epsilon_k` are the same for all
tasks (common random numbers), from a seed of the learner's own: what is predicted for a
task depends on no other. In meta-training, every update has its own.

Axes: T tasks, K draws of a task, S support rows, Q query rows, F features, N ways.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sklmeta.engine.batches import Rows
from sklmeta.engine.densities import PredictsDensity, standard_normal
from sklmeta.engine.learner import Progress, State
from sklmeta.engine.losses import cross_entropy, gaussian_nll, squared_error
from sklmeta.gradient.heads import FixedHead, LinearHead
from sklmeta.gradient.network import GradientLearner, Statistics, TaskWeights, below

__all__ = ["SampledWeights", "gaussian_kl", "in_draws", "per_draw"]

FIXED_HEAD = (
    "head='fixed' has meta-learned vectors for the ways of local labels, which have no "
    "density here. Use head='prototype', or head='shared'."
)
FIRST_NOISE = (
    0.5  # standard deviation of targets, in the units that they are trained in
)


class SampledWeights(PredictsDensity, GradientLearner):
    """Base of the learners that give every task several networks.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes or targets; None for local labels.
    inner_lr : float, default=0.01
        Step size of the inner loop.
    inner_steps : int, default=1
        Gradient steps of the inner loop.
    first_order : bool, default=False
        Leave out the second derivatives.
    kl_weight : float, default=1.0
        Weight of the divergence of densities of weights.
    n_samples : int, default=10
        Networks of a task, when adapting.
    n_train_samples : int, default=1
        Networks of a task, in meta-training.
    initial_std : float, default=0.05
        What the standard deviations of weights start from.
    noise_tasks : int, default=16
        Tasks with noise of their own in a meta-update.
    seed : int, default=0
        Of all noise.
    **network
        Further parameters of `GradientLearner`.
    """

    log_noise: nn.Parameter | None
    training_noise: Tensor
    n_noise_sets: ClassVar[int] = 1  # draws of the noise of a network
    adaptation_options: tuple[str, ...] = ("inner_lr", "inner_steps", "n_samples")

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        first_order: bool = False,
        kl_weight: float = 1.0,
        n_samples: int = 10,
        n_train_samples: int = 1,
        initial_std: float = 0.05,
        noise_tasks: int = 16,
        seed: int = 0,
        **network: Any,
    ) -> None:
        super().__init__(backbone, n_features, n_outputs, **network)
        if isinstance(self.head, FixedHead):
            raise ValueError(FIXED_HEAD)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order
        self.kl_weight = kl_weight
        self.n_samples = n_samples
        self.seed = seed
        self.shapes = {
            name: weight.shape
            for name, weight in self.named_parameters()
            if weight.requires_grad and self._is_drawn(name)
        }
        self.log_std = log_stds(self.shapes, initial_std)
        self.log_noise = None
        if self.task_type == "regression":
            start = torch.full((n_outputs or 1,), math.log(FIRST_NOISE))
            self.log_noise = nn.Parameter(start)
        n_weights = sum(shape.numel() for shape in self.shapes.values())
        self.noise_tasks = noise_tasks
        # Made when meta-training asks for it, and left behind by copies and pickles.
        noise = torch.empty(0, self.n_noise_sets * n_train_samples, n_weights)
        self.register_buffer("training_noise", noise, persistent=False)
        self._progress = Progress()

    def _is_drawn(self, name: str) -> bool:
        """Whether a weight has a density: those that adaptation starts from."""
        return name.startswith("backbone.") or isinstance(self.head, LinearHead)

    # Densities of weights --------------------------------------------------------

    def means(self, n_tasks: int) -> TaskWeights:
        """Return the meta-learned means of the weights, (T, ...) each."""
        own = dict(self.named_parameters())
        return {
            name: own[name].expand(n_tasks, *shape)
            for name, shape in self.shapes.items()
        }

    def stds(self, log_std: nn.ParameterDict) -> TaskWeights:
        """Return standard deviations by the names of weights, from their logarithms."""
        return {name: log_std[_key(name)].exp() for name in self.shapes}

    def drawn(
        self, means: TaskWeights, stds: TaskWeights, noise: Tensor
    ) -> TaskWeights:
        """Return weights (T * K, ...) of each draw.

        Parameters
        ----------
        means : dict of str to Tensor
            (T, ...) each.
        stds : dict of str to Tensor
            (...) or (T, ...) each.
        noise : Tensor of shape (T, K, n_weights) or (1, K, n_weights)
            Standard normal.

        Returns
        -------
        dict of str to Tensor
            (T * K, ...) each.
        """
        weights, start = {}, 0
        for name, mean in means.items():
            shape = self.shapes[name]
            part = noise[..., start : start + shape.numel()]
            part = part.unflatten(-1, shape) if shape else part.squeeze(-1)
            start += shape.numel()
            std = stds[name]
            std = std.unsqueeze(1) if std.dim() > len(shape) else std
            weights[name] = (mean.unsqueeze(1) + std * part).flatten(0, 1)
        return weights

    def noise_of_draws(self, like: Tensor) -> Tensor:
        """Return the noise of adaptation, every task's, (1, K, n_weights)."""
        n_draws = self.n_noise_sets * self.n_samples
        shape = 1, n_draws, self.training_noise.shape[2]
        generator = torch.Generator().manual_seed(self.seed)
        return standard_normal(shape, generator, like)

    def noise_of_update(self, n_tasks: int) -> Tensor:
        """Return the noise of this meta-update, (T, K, n_weights)."""
        if not len(self.training_noise):
            self._draw_noise()
        noise = self.training_noise
        if n_tasks > len(noise):  # some tasks have the same
            noise = noise.repeat(-(-n_tasks // len(noise)), 1, 1)
        return noise[:n_tasks]

    @property
    def progress(self) -> Progress:
        """How far meta-training has come; set by it before every meta-update."""
        return self._progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        self._progress = progress
        self._draw_noise()

    def _draw_noise(self) -> None:
        """Draw the noise of this meta-update."""
        n_train, n_weights = self.training_noise.shape[1:]
        shape = self.noise_tasks, n_train, n_weights
        generator = torch.Generator().manual_seed(self.seed + 1 + self._progress.n_done)
        drawn = torch.randn(shape, generator=generator, dtype=torch.float32)
        if len(self.training_noise):
            self.training_noise.copy_(drawn)  # in place: see `Learner.stage`
        else:
            self.training_noise = drawn.to(self.training_noise)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle and to copy, without the noise of training."""
        buffers = dict(self._buffers)
        buffers["training_noise"] = self.training_noise[:0].clone()
        return {**self.__dict__, "_buffers": buffers}

    # Networks --------------------------------------------------------------------

    def outputs(  # type: ignore[override]
        self,
        weights: TaskWeights,
        x: Tensor,
        ways: Tensor,
        statistics: Statistics | None = None,
    ) -> Tensor:
        """Map rows (T, S, *F) to (T, S, N) or (T, S, n_outputs): one network's."""
        return GradientLearner.outputs(self, weights, x, ways, statistics)

    def started(self, weights: TaskWeights, support: Rows) -> TaskWeights:
        """Return weights with heads, which with local labels follow from support rows.

        Gradients by what is returned leave out how heads depend on other weights.
        """
        if self.head is not None and not isinstance(self.head, LinearHead):
            own = below("backbone.", weights)
            head = self.initial_head(support, lambda: self.features(own, support.x))
            weights = weights | head
        return {name: weight.view_as(weight) for name, weight in weights.items()}

    def support_loss(self, weights: TaskWeights, support: Rows, ways: Tensor) -> Tensor:
        """Return the loss that gradient steps lower, that of MAML, (T,)."""
        outputs = self.outputs(weights, support.x, ways)
        regression = self.task_type == "regression"
        loss = squared_error if regression else cross_entropy
        return loss(outputs, support.y, support.mask)

    def likelihood_loss(self, outputs: Tensor, rows: Rows, n_draws: int) -> Tensor:
        """Return the mean negative log likelihood of rows over draws, (T,).

        `outputs` are (T * K, Q, n_outputs), or logits (T * K, Q, N).
        """
        rows = per_draw(rows, n_draws)
        if self.log_noise is None:
            losses = cross_entropy(outputs, rows.y, rows.mask)
        else:
            variance = self.noise_variance().expand_as(outputs)
            losses = gaussian_nll(outputs, variance, rows.y, rows.mask)
        return losses.unflatten(0, (-1, n_draws)).mean(1)

    def n_numbers(self, rows: Rows) -> Tensor:
        """Return how many labels or numbers each task's rows have, at least 1, (T,)."""
        n_rows = rows.mask.sum(1).clamp(min=1)
        return n_rows if self.log_noise is None else n_rows * len(self.log_noise)

    def noise_variance(self) -> Tensor:
        """Return the variance of targets about a network's outputs, (n_outputs,)."""
        assert self.log_noise is not None
        return (2 * self.log_noise).exp()

    # Predicting ------------------------------------------------------------------

    def sampled_state(
        self, weights: TaskWeights, support: Rows, ways: Tensor, n_draws: int
    ) -> State:
        """Return what `predict` needs: see `GradientLearner.state`.

        `weights`, `support` and `ways` are of T * K; in the state, "parameters" and
        "statistics" are (T, K, ...), and "ways" are (T, K, N).
        """
        state = self.state(weights, support, ways)
        return pytree.tree_map(lambda leaf: leaf.unflatten(0, (-1, n_draws)), state)

    def sampled_outputs(self, state: State, x: Tensor) -> Tensor:
        """Return the outputs of every network, (T, K, Q, n_outputs) or (T, K, Q, N)."""
        n_draws = state["ways"].shape[1]
        flat = pytree.tree_map(lambda leaf: leaf.flatten(0, 1), state)
        outputs = self.outputs(
            flat["parameters"], in_draws(x, n_draws), flat["ways"], flat["statistics"]
        )
        return outputs.unflatten(0, (-1, n_draws))

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return the mixture of a task's networks for query rows.

        Parameters
        ----------
        state : dict
            What `adapt` returned.
        x : Tensor of shape (T, Q, *F)
            Query rows.

        Returns
        -------
        Tensor of shape (T, Q, N) or (T, Q, n_outputs)
            Logarithms of mean probabilities, or mean numbers.
        """
        outputs = self.sampled_outputs(state, x)
        if self.log_noise is None:
            log_p = outputs.log_softmax(-1)
            return self.logits(log_p.logsumexp(1) - math.log(outputs.shape[1]))
        spread = outputs.var(1, correction=0)
        variance = spread + self.noise_variance()
        return PredictsDensity.outputs(self, outputs.mean(1), variance)

    def draw(
        self,
        state: State,
        x: Tensor,
        n_samples: int,
        generator: torch.Generator,
        noise: bool = True,
    ) -> Tensor:
        """Draw functions: each network once before any is taken again.

        Parameters
        ----------
        state : dict
            What `adapt` returned.
        x : Tensor of shape (T, Q, *F)
            Query rows.
        n_samples : int
            How many.
        generator : torch.Generator
            On the CPU.
        noise : bool, default=True
            Whether to add the noise of targets; labels have none.

        Returns
        -------
        Tensor of shape (T, n_samples, Q, n_outputs) or (T, n_samples, Q, N)
            Numbers, or logits; not calibrated.
        """
        outputs = self.sampled_outputs(state, x)
        n_draws = outputs.shape[1]
        rounds = -(-n_samples // n_draws)
        orders = [torch.randperm(n_draws, generator=generator) for _ in range(rounds)]
        draws = outputs[:, torch.cat(orders)[:n_samples].to(outputs.device)]
        if not noise or self.log_noise is None:
            return draws
        std = self.noise_variance().sqrt()
        return draws + std * standard_normal(tuple(draws.shape), generator, draws)


def log_stds(shapes: Mapping[str, torch.Size], start: float) -> nn.ParameterDict:
    """Return logarithms of standard deviations, one for each element of the weights."""
    return nn.ParameterDict(
        {_key(n): torch.full(shape, math.log(start)) for n, shape in shapes.items()}
    )


def _key(name: str) -> str:
    """Return what a weight's standard deviation is stored under; dots mean modules."""
    return name.replace(".", "/")


def gaussian_kl(
    means: TaskWeights, stds: TaskWeights, others: TaskWeights, other_stds: TaskWeights
) -> Tensor:
    r"""Return the divergence of independent normals from others, summed, (T,).

    .. math:: \sum_j \log \frac{\sigma'_j}{\sigma_j}
              + \frac{\sigma_j^2 + (\mu_j - \mu'_j)^2}{2 \sigma_j'^2} - \frac{1}{2}
    """
    total = torch.zeros(())
    for name, mean in means.items():
        std, other = stds[name], other_stds[name]
        ratio = (std / other).square()
        shift = ((mean - others[name]) / other).square()
        terms = 0.5 * (ratio + shift - 1 - ratio.log())  # (T, ...)
        total = total.to(mean) + terms.flatten(1).sum(1)
    return total


def in_draws(values: Tensor, n_draws: int) -> Tensor:
    """Return what each draw of a task gets, (T * K, ...), from (T, ...)."""
    shape = len(values), n_draws, *values.shape[1:]
    return values.unsqueeze(1).expand(shape).flatten(0, 1)


def per_draw(rows: Rows, n_draws: int) -> Rows:
    """Return the rows of each draw of a task, those of T * K tasks."""
    n_way = None if rows.n_way is None else in_draws(rows.n_way, n_draws)
    x, y, mask = (in_draws(one, n_draws) for one in (rows.x, rows.y, rows.mask))
    return Rows(x, y, mask, n_way)
