r"""Meta-learning by a recurrent network: the baseline of memory-augmented networks.

Rows of a task come one after another, each with the label of the row before it, and an
LSTM's state is all that remembers them:

.. math:: h_t, c_t = \mathrm{LSTM}([x_t, y_{t-1}], h_{t-1}, c_{t-1}), \qquad
          p(y_t \mid x_{1:t}, y_{1:t-1}) = \mathrm{softmax}(W h_t + b).

That a recurrent network so trained learns to learn is of Hochreiter, Younger and
Conwell; memory-augmented networks are compared with it in their paper.

Deviations from the paper
-------------------------
Those of `sklmeta.memory.mann` but for the key strength, which it has no use for.

References
----------
Hochreiter, Younger and Conwell, "Learning to Learn Using Gradient Descent", ICANN 2001.
Santoro et al., "One-shot Learning with Memory-Augmented Neural Networks", ICML 2016,
arXiv:1605.06065.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn

from sklmeta._parameters import check_integer, with_common_parameters
from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.learner import State
from sklmeta.episodic import CommonParameters, EpisodicRegressorMixin
from sklmeta.memory._sequence import SequenceEstimator, SequenceLearner

__all__ = ["RecurrentNet", "RecurrentNetClassifier", "RecurrentNetRegressor"]


class LSTMState(NamedTuple):
    """State and cell of an LSTM, (T, H) each."""

    hidden: Tensor
    cell: Tensor


class RecurrentNet(SequenceLearner):
    """LSTM that reads a task's rows one after another, as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes (shared labels) or of targets; None for local labels.
    task_type : {"classification", "regression"}, default="classification"
        What outputs are: logits, or numbers.
    n_ways : int, default=None
        The most ways of a task; with local labels.
    hidden_size : int, default=200
        Units of the LSTM.
    generator : torch.Generator, default=None
        Draws the initial weights.
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        task_type: str = "classification",
        n_ways: int | None = None,
        hidden_size: int = 200,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(task_type, backbone, n_features, n_outputs, n_ways=n_ways)
        self.hidden_size = hidden_size
        n_gates = 4 * hidden_size  # input, forget, candidate, output
        self.inputs = nn.Parameter(torch.empty(n_gates, self.n_inputs))
        self.recurrent = nn.Parameter(torch.empty(n_gates, hidden_size))
        self.bias = nn.Parameter(torch.zeros(n_gates))
        self.outputs = nn.Parameter(torch.empty(self.n_labels, hidden_size))
        self.outputs_bias = nn.Parameter(torch.zeros(self.n_labels))
        nn.init.xavier_uniform_(self.inputs, generator=generator)
        nn.init.xavier_uniform_(self.outputs, generator=generator)
        with torch.no_grad():
            for gate in self.recurrent.split(hidden_size):
                nn.init.orthogonal_(gate, generator=generator)
            self.bias[hidden_size : 2 * hidden_size] = 1.0  # remember, at first

    def initial_state(self, n_tasks: int, like: Tensor) -> LSTMState:
        """Return the state of an LSTM that has seen nothing."""
        zeros = like.new_zeros(n_tasks, self.hidden_size)
        return LSTMState(zeros, zeros)

    def unroll(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Take one step for each of the inputs (T, S, n_inputs).

        Parameters
        ----------
        inputs : Tensor of shape (T, S, n_inputs)
            Rows, each with the label of the one before.
        state : LSTMState
            Before the first of them.

        Returns
        -------
        Tensor of shape (T, S, hidden_size)
            The LSTM's state after each step.
        LSTMState
            After the last step.
        """
        # The fused layer, without a module: layers of torch's kind are taken for ones
        # that cannot take many tasks at once.
        weights = [self.inputs, self.recurrent, self.bias, torch.zeros_like(self.bias)]
        before = [part.unsqueeze(0) for part in state]
        found, hidden, cell = torch.lstm(
            inputs, before, weights, True, 1, 0.0, self.training, False, True
        )
        return found, LSTMState(hidden[0], cell[0])

    def answer(self, inputs: Tensor, state: State) -> Tensor:
        """Take a step of its own from the same state for each of the inputs.

        Parameters
        ----------
        inputs : Tensor of shape (T, Q, n_inputs)
            Query rows, each with the last label of the support.
        state : LSTMState
            Of the adapted tasks; it stays as it is.

        Returns
        -------
        Tensor of shape (T, Q, hidden_size)
            The LSTM's state after each row's step.
        """
        kept = state.hidden @ self.recurrent.mT + self.bias
        gates = inputs @ self.inputs.mT + kept.unsqueeze(1)
        i, f, g, o = gates.chunk(4, 2)
        cell = f.sigmoid() * state.cell.unsqueeze(1) + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh()

    def read_out(self, features: Tensor) -> Tensor:
        """Map the LSTM's states (T, S, hidden_size) to outputs (T, S, n_labels)."""
        return features @ self.outputs.mT + self.outputs_bias


class _RecurrentNetEstimator(SequenceEstimator):
    """What the classifier and the regressor share."""

    _structural_parameters = (
        *SequenceEstimator._structural_parameters,
        "hidden_size",
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        hidden_size: int = 200,
        **common: Unpack[CommonParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.hidden_size = hidden_size

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_integer("hidden_size", self.hidden_size, 1)

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> RecurrentNet:
        return RecurrentNet(
            backbone,
            n_features,
            n_outputs,
            task_type="classification" if self._classifies else "regression",
            n_ways=n_ways,
            hidden_size=self.hidden_size,
            generator=generator,
        )


@with_common_parameters
class RecurrentNetClassifier(MetaClassifierMixin, _RecurrentNetEstimator):
    """Classifier that reads support rows one after another by an LSTM.

    The baseline that memory-augmented networks are compared with [1]_. Adapting is
    reading the support rows, in an order that follows from their features. For as many
    classes as in meta-training, or fewer.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for rows as they are and
        the pixels of images, as in the paper.

    hidden_size : int, default=200
        Units of the LSTM.

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    MANNClassifier : The same with an external memory.

    References
    ----------
    .. [1] A. Santoro, S. Bartunov, M. Botvinick, D. Wierstra, T. Lillicrap, "One-shot
       Learning with Memory-Augmented Neural Networks", ICML 2016, arXiv:1605.06065.

    Examples
    --------
    >>> from sklmeta import RecurrentNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = RecurrentNetClassifier(n_shot=1, max_iter=3, random_state=0)
    >>> meta = meta.fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """


@with_common_parameters
class RecurrentNetRegressor(EpisodicRegressorMixin, _RecurrentNetEstimator):
    """Regressor that reads support rows one after another by an LSTM.

    A recurrent network that learns to learn [1]_: adapting is reading the support rows,
    in an order that follows from their features.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for rows as they are and
        the pixels of images.

    hidden_size : int, default=200
        Units of the LSTM.

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    RecurrentNetClassifier : The same for labels.
    MANNRegressor : The same with an external memory.

    References
    ----------
    .. [1] S. Hochreiter, A. S. Younger, P. R. Conwell, "Learning to Learn Using
       Gradient Descent", ICANN 2001.

    Examples
    --------
    >>> from sklmeta import RecurrentNetRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(50, random_state=0)
    >>> meta = RecurrentNetRegressor(max_iter=3, random_state=0).fit(tasks[:40])
    >>> new = tasks[40]
    >>> meta.adapt(new.X[:5], new.y[:5]).predict(new.X[5:]).shape
    (15,)
    """
