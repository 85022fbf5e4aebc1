r"""In-context learning by a transformer: TNP-D, a transformer neural process.

Support rows are tokens :math:`(x_i, y_i)`, query rows tokens :math:`(x, 0)`. In each
layer all of them attend to the support rows alone,

.. math:: h^{l+1}_i = \mathrm{block}\bigl(h^l_i, \{h^l_j\}_{j \in C}\bigr), \qquad
   p(y \mid x, C) = \mathcal N\bigl(y; \mu(h^L), \sigma^2(h^L)\bigr), \qquad (1)

and training lowers :math:`-\log p(y \mid x, C)` of query rows. So a new task is learned
in one pass through the network, without a gradient step: keys and values of the support
rows are what adapting makes. Query rows do not see each other, and cost is linear in
their number; there are no positions, so that the order of rows does not matter.

Deviations from the paper
-------------------------
- Of its three forms this is the diagonal one, TNP-D.
- With labels the last layer gives logits. With local labels one question is asked for
  each way, whether a row is of it, by the same network; see
  `sklmeta.probabilistic._context_learner`. The paper's classification data are images
  that are completed, numbers again.
- Standard deviations come from a softplus, and are at least `min_std`; the authors'
  code takes an exponential.
- Support rows are hidden in a share of the training episodes (`prior_fraction`), so
  that predictions without any are those of a prior; not with local labels, which have
  none.

References
----------
Nguyen and Grover, "Transformer Neural Processes: Uncertainty-Aware Meta Learning Via
Sequence Modeling", ICML 2022, arXiv:2207.04179.
"""

from __future__ import annotations

from typing import Any, TypeVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklmeta._parameters import (
    check_integer,
    check_positive,
    filled_in,
    with_common_parameters,
)
from sklmeta._probabilistic import (
    ProbabilisticClassifierMixin,
    ProbabilisticRegressorMixin,
)
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import State
from sklmeta.engine.losses import gaussian_nll
from sklmeta.probabilistic._attention import AttentionBlock, Memory
from sklmeta.probabilistic._context_estimator import (
    CONTEXT_PARAMETERS,
    ContextEstimator,
    ContextParameters,
    check_heads,
)
from sklmeta.probabilistic._context_learner import ContextLearner, folded
from sklmeta.probabilistic._encoders import dense

__all__ = ["InContext", "InContextClassifier", "InContextRegressor"]


class InContext(ContextLearner):
    """Transformer neural process as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes (shared labels) or of targets; None for local labels.
    task_type : {"classification", "regression"}, default="regression"
        What outputs are: logits, or numbers.
    hidden_size : int, default=64
        Width of tokens.
    n_layers : int, default=6
        Transformer layers.
    n_heads : int, default=4
        Attention heads.
    feedforward_size : int, default=128
        Width of the layers' feed-forward networks.
    encoder_depth : int, default=4
        Linear layers that make tokens.
    min_std : float, default=0.001
        Least standard deviation of a number.
    prior_fraction : float, default=0.05
        Share of the training episodes whose support rows are hidden.
    generator : torch.Generator, default=None
        Draws the initial weights.
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        task_type: str = "regression",
        hidden_size: int = 64,
        n_layers: int = 6,
        n_heads: int = 4,
        feedforward_size: int = 128,
        encoder_depth: int = 4,
        min_std: float = 0.001,
        prior_fraction: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            task_type,
            backbone,
            n_outputs,
            min_std=min_std,
            prior_fraction=prior_fraction,
        )
        self.tokens = dense(
            [n_features + self.n_labels, *encoder_depth * [hidden_size]], generator
        )
        self.layers = nn.ModuleList(
            AttentionBlock(hidden_size, n_heads, feedforward_size, generator=generator)
            for _ in range(n_layers)
        )
        self.head = dense([hidden_size, feedforward_size, self.n_decoded], generator)

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Pass the support rows through the transformer.

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows.
        support : Rows
            y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,) with local labels.

        Returns
        -------
        dict
            "keys" and "values" of each layer (T, W, heads, S, H / heads), "mask"
            (T, S), and with local labels "ways" (T, N).
        """
        told = self.told(support, features)
        n_questions = told.shape[1]
        mask = self._mask(support.mask, n_questions)
        rows = self._embedded(folded(features, n_questions), told.flatten(0, 1))
        memories = []
        for layer in self._layers():
            memories.append(layer.memory(rows, rows))
            if len(memories) < len(self.layers):
                rows = layer(rows, memories[-1], mask)
        keys, values = (
            [part.unflatten(0, (-1, n_questions)) for part in parts]
            for parts in zip(*memories, strict=True)
        )
        return {
            **self.ways(support),
            **{"keys": keys, "values": values, "mask": support.mask},
        }

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return outputs for query rows, which see the support rows alone.

        Parameters
        ----------
        state : dict
            What `adapt_features` returned.
        features : Tensor of shape (T, Q, n_features)
            Of the query rows.

        Returns
        -------
        Tensor of shape (T, Q, N) or (T, Q, n_outputs)
            Logits, -inf for ways that a task does not have; or numbers.
        """
        n_questions = state["keys"][0].shape[1]
        mask = self._mask(state["mask"], n_questions)
        blank = features.new_zeros(*features.shape[:2], self.n_labels)
        rows = folded(self._embedded(features, blank), n_questions)
        memories = zip(state["keys"], state["values"], strict=True)
        for layer, (keys, values) in zip(self._layers(), memories, strict=True):
            memory = Memory(keys.flatten(0, 1), values.flatten(0, 1))
            rows = layer(rows, memory, mask)
        return self._read_out(rows.unflatten(0, (-1, n_questions)), state)

    def training_loss(self, episodes: Episodes) -> Tensor:
        """Return the negative log density of query rows, (T,), by equation (1).

        Support and query rows go through each layer together.

        Parameters
        ----------
        episodes : Episodes
            Of T tasks.

        Returns
        -------
        Tensor of shape (T,)
            The losses.
        """
        support, query = episodes.support, episodes.query
        n_support = support.x.shape[1]
        features = self.embed(torch.cat([support.x, query.x], 1))
        told = self.told(support, features)
        n_questions = told.shape[1]
        told = F.pad(told, (0, 0, 0, query.x.shape[1])).flatten(0, 1)
        mask = self._mask(support.mask, n_questions)
        rows = self._embedded(folded(features, n_questions), told)
        *layers, last = self._layers()
        for layer in layers:
            context = rows[:, :n_support]
            rows = layer(rows, layer.memory(context, context), mask)
        context, asking = rows[:, :n_support], rows[:, n_support:]
        asking = last(asking, last.memory(context, context), mask)
        decoded = self.head(asking.unflatten(0, (-1, n_questions)))
        if self.task_type == "classification":
            return self.loss(self.answers(decoded, self.ways(support)), query)
        mean, std = self.moments(decoded.squeeze(1))
        return gaussian_nll(mean, std.square(), query.y, query.mask)

    def _embedded(self, features: Tensor, told: Tensor) -> Tensor:
        return self.tokens(torch.cat([features, told], -1))

    def _read_out(self, rows: Tensor, state: dict[str, Any]) -> Tensor:
        """Return outputs of query tokens (T, W, Q, H)."""
        decoded = self.head(rows)
        if self.task_type == "classification":
            return self.logits(self.answers(decoded, state))
        mean, std = self.moments(decoded.squeeze(1))
        return self.outputs(mean, std.square())

    def _layers(self) -> list[AttentionBlock]:
        return [layer for layer in self.layers if isinstance(layer, AttentionBlock)]

    def _mask(self, mask: Tensor, n_questions: int) -> Tensor | None:
        """Return the mask of each question's rows; None if all are real."""
        return None if bool(mask.all()) else folded(mask, n_questions)


IN_CONTEXT_PARAMETERS = """\
hidden_size : int, default=64
    Width of tokens.

n_layers : int, default=6
    Transformer layers.

n_heads : int, default=4
    Attention heads; they divide `hidden_size`.

feedforward_size : int, default=128
    Width of the layers' feed-forward networks.

encoder_depth : int, default=4
    Linear layers that make tokens of rows and labels.
"""

Class = TypeVar("Class", bound=type)


def _with_parameters(cls: Class) -> Class:
    texts = {
        "<in-context parameters>": IN_CONTEXT_PARAMETERS,
        "<context parameters>": CONTEXT_PARAMETERS,
    }
    return with_common_parameters(filled_in(cls, texts))


class InContextParameters(ContextParameters, total=False):
    """What `_InContextEstimator` takes, for subclasses that pass it on by name."""

    hidden_size: int
    n_layers: int
    n_heads: int
    feedforward_size: int
    encoder_depth: int


class _InContextEstimator(ContextEstimator):
    """What the classifier and the regressor share."""

    _structural_parameters = (
        *ContextEstimator._structural_parameters,
        *("hidden_size", "n_layers", "n_heads", "feedforward_size", "encoder_depth"),
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        hidden_size: int = 64,
        n_layers: int = 6,
        n_heads: int = 4,
        feedforward_size: int = 128,
        encoder_depth: int = 4,
        **common: Unpack[ContextParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.feedforward_size = feedforward_size
        self.encoder_depth = encoder_depth

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name in ("n_layers", "feedforward_size", "encoder_depth"):
            check_integer(name, getattr(self, name), 1)
        check_heads(self)

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> InContext:
        return InContext(
            backbone,
            n_features,
            n_outputs,
            task_type="classification" if self._classifies else "regression",
            hidden_size=self.hidden_size,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            feedforward_size=self.feedforward_size,
            encoder_depth=self.encoder_depth,
            min_std=getattr(self, "min_std", 0.0),
            prior_fraction=self.prior_fraction,
            generator=generator,
        )


@_with_parameters
class InContextClassifier(ProbabilisticClassifierMixin, _InContextEstimator):
    """Classifier that learns a new task by attention, in one forward pass.

    A transformer neural process [1]_: support rows with their labels are read by a
    transformer, and each query row reads them. Any number of ways, whose order does not
    matter, and of support rows.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for rows as they are and
        a four-block convolution net of images.

    <in-context parameters>

    <context parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    InContextRegressor : The same for numbers.
    NeuralProcessClassifier : Pools the support rows, or reads them once.
    MatchingNetClassifier : Attends to the support rows by their features alone.

    Notes
    -----
    What labels have in common is learned from scratch: that takes many tasks, or
    classes. With a handful of classes start from a metric learner.

    With labels that mean something in their task alone, cost grows with the number of
    ways: for each of them the network is asked which rows are of it.

    References
    ----------
    .. [1] T. Nguyen, A. Grover, "Transformer Neural Processes: Uncertainty-Aware Meta
       Learning Via Sequence Modeling", ICML 2022, arXiv:2207.04179.

    Examples
    --------
    >>> from sklmeta import InContextClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = InContextClassifier("identity", n_layers=2, max_iter=3, random_state=0)
    >>> meta = meta.fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """


@_with_parameters
class InContextRegressor(ProbabilisticRegressorMixin, _InContextEstimator):
    """Regressor that learns a new task by attention, in one forward pass.

    A transformer neural process, TNP-D [1]_: support rows with their targets are read
    by a transformer, and each query row reads them, which gives the mean and the
    standard deviation of its target.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for rows as they are and
        a four-block convolution net of images.

    min_std : float, default=0.001
        Least standard deviation, in units of normalised targets.

    <in-context parameters>

    <context parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    InContextClassifier : The same for labels.
    NeuralProcessRegressor : Pools the support rows, or reads them once.
    sklmeta.datasets.GaussianProcessTasks : Simulated tasks to meta-train on.

    References
    ----------
    .. [1] T. Nguyen, A. Grover, "Transformer Neural Processes: Uncertainty-Aware Meta
       Learning Via Sequence Modeling", ICML 2022, arXiv:2207.04179.

    Examples
    --------
    >>> from sklmeta import InContextRegressor
    >>> from sklmeta.datasets import GaussianProcessTasks
    >>> tasks = GaussianProcessTasks(n_samples=20)
    >>> meta = InContextRegressor(n_layers=2, max_iter=3, random_state=0).fit(tasks)
    >>> new = tasks.sample(1, random_state=1)[0]
    >>> mean, std = meta.adapt(new.X[:5], new.y[:5]).predict(new.X[5:], return_std=True)
    >>> mean.shape, std.shape
    ((15,), (15,))
    """

    _structural_parameters = (*_InContextEstimator._structural_parameters, "min_std")

    def __init__(
        self,
        backbone: Any = None,
        *,
        min_std: float = 0.001,
        **common: Unpack[InContextParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.min_std = min_std

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("min_std", self.min_std)
