r"""Memory-augmented neural networks: what was seen is written, and read by content.

Rows of a task come one after another, each with the label of the row before it
(section 2 of the paper): :math:`(x_1, 0), (x_2, y_1), \ldots, (x_t, y_{t-1})`, and
:math:`y_t` is to be predicted at step t. The controller, an LSTM, makes keys that are
written into an external memory, where it was used least or read last (equations 5 to
8), and read from it by their cosine (equations 2 to 4); see
`sklmeta.memory._external_memory` for a step in full. Meta-training minimises

.. math:: \mathbb{E} \sum_t -\log p(y_t \mid x_{1:t}, y_{1:t-1}).

Deviations from the paper
-------------------------
- The rows after the support, the query rows, are each predicted by one step from the
  state that the support left, without seeing each other: the paper's last step, for
  many rows at once. In meta-training the loss is the mean over the steps of the support
  and these.
- A softmax over cosines alone could not single out one of 128 memory rows: they are
  multiplied by a key strength that the controller makes, as in neural Turing machines.
- In a new task, the order of the support rows and which label stands for which class
  follow from the rows' features, so that neither the order nor names of labels matter.
- With labels that mean the same in all tasks, and with numbers, the labels or targets
  are told as they are. A class that the support does not show keeps a probability.

References
----------
Santoro, Bartunov, Botvinick, Wierstra and Lillicrap, "One-shot Learning with
Memory-Augmented Neural Networks", ICML 2016, arXiv:1605.06065.
Graves, Wayne and Danihelka, "Neural Turing Machines", 2014, arXiv:1410.5401.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from sklmeta._parameters import check_integer, check_positive, with_common_parameters
from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.learner import State
from sklmeta.episodic import CommonParameters, EpisodicRegressorMixin
from sklmeta.memory._external_memory import (
    MemoryState,
    Sizes,
    Weights,
    answer,
    initial_state,
    unroll,
)
from sklmeta.memory._sequence import SequenceEstimator, SequenceLearner

__all__ = ["MANN", "MANNClassifier", "MANNRegressor"]

FIRST_STRENGTH = 10.0  # of keys, before meta-training


class MANN(SequenceLearner):
    """Memory-augmented neural network as a torch module.

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
        Units of the controller.
    memory_size : int, default=128
        Rows of the memory.
    memory_width : int, default=40
        Numbers in a row of the memory.
    n_reads : int, default=4
        Rows that are read in a step, and written, at most.
    usage_decay : float, default=0.99
        Factor of the usage of memory rows from step to step.
    generator : torch.Generator, default=None
        Draws the initial weights.

    Examples
    --------
    Without scikit-learn, on one task of two ways:

    >>> import torch
    >>> from sklmeta.engine.batches import Rows
    >>> from sklmeta.memory import MANN
    >>> x, y = torch.tensor([[[0.0], [1.0], [4.0]]]), torch.tensor([[0, 0, 1]])
    >>> support = Rows(x, y, mask=torch.ones(1, 3).bool(), n_way=torch.tensor([2]))
    >>> learner = MANN(torch.nn.Identity(), 1, None, n_ways=2)
    >>> state = learner.adapt(support)
    >>> state["memory"].memory.shape
    torch.Size([1, 128, 40])
    >>> learner.predict(state, torch.tensor([[[0.5], [3.0]]])).shape
    torch.Size([1, 2, 2])
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
        memory_size: int = 128,
        memory_width: int = 40,
        n_reads: int = 4,
        usage_decay: float = 0.99,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(task_type, backbone, n_features, n_outputs, n_ways=n_ways)
        self.sizes = Sizes(hidden_size, n_reads, memory_size, memory_width, usage_decay)
        n_read, n_gates = n_reads * memory_width, 4 * hidden_size
        self.inputs = nn.Parameter(torch.empty(self.n_inputs, n_gates))
        self.inputs_bias = nn.Parameter(torch.zeros(n_gates))
        self.recurrent = nn.Parameter(torch.empty(hidden_size + n_read, n_gates))
        self.interface = nn.Parameter(torch.empty(hidden_size, n_read + 2 * n_reads))
        self.interface_bias = nn.Parameter(torch.zeros(n_read + 2 * n_reads))
        self.outputs = nn.Parameter(torch.empty(hidden_size + n_read, self.n_labels))
        self.outputs_bias = nn.Parameter(torch.zeros(self.n_labels))
        self._draw_weights(generator)

    def _draw_weights(self, generator: torch.Generator | None) -> None:
        hidden = self.sizes.hidden
        for weight in (self.inputs, self.interface, self.outputs):
            nn.init.xavier_uniform_(weight, generator=generator)
        with torch.no_grad():
            for gate in self.recurrent.split(hidden, 1):
                nn.init.orthogonal_(gate[:hidden], generator=generator)
                nn.init.xavier_uniform_(gate[hidden:], generator=generator)
            self.inputs_bias[hidden : 2 * hidden] = 1.0  # remember, at first
            strength = math.log(math.expm1(FIRST_STRENGTH))
            self.interface_bias[-self.sizes.reads :] = strength

    def initial_state(self, n_tasks: int, like: Tensor) -> MemoryState:
        """Return an empty memory, and a controller that has seen nothing."""
        return initial_state(n_tasks, self.sizes, like)

    def unroll(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Take one step for each of the inputs (T, S, n_inputs).

        Parameters
        ----------
        inputs : Tensor of shape (T, S, n_inputs)
            Rows, each with the label of the one before.
        state : MemoryState
            Before the first of them.

        Returns
        -------
        Tensor of shape (T, S, hidden_size + n_reads * memory_width)
            Controller's state and what it reads, after each step.
        MemoryState
            After the last step.
        """
        return unroll(self._to_gates(inputs), state, self._weights(), self.sizes)

    def answer(self, inputs: Tensor, state: State) -> Tensor:
        """Take a step of its own from the same state for each of the inputs.

        Parameters
        ----------
        inputs : Tensor of shape (T, Q, n_inputs)
            Query rows, each with the last label of the support.
        state : MemoryState
            Of the adapted tasks; it stays as it is.

        Returns
        -------
        Tensor of shape (T, Q, hidden_size + n_reads * memory_width)
            Controller's state and what it reads.
        """
        return answer(self._to_gates(inputs), state, self._weights(), self.sizes)

    def read_out(self, features: Tensor) -> Tensor:
        """Map controller's state and reads (T, S, K) to outputs (T, S, n_labels)."""
        return features @ self.outputs + self.outputs_bias

    def _to_gates(self, inputs: Tensor) -> Tensor:
        gates = torch.addmm(self.inputs_bias, inputs.flatten(0, 1), self.inputs)
        return gates.unflatten(0, inputs.shape[:2])

    def _weights(self) -> Weights:
        return Weights(self.recurrent, self.interface, self.interface_bias)


class _MANNEstimator(SequenceEstimator):
    """What the classifier and the regressor share."""

    def __init__(
        self,
        backbone: Any = None,
        *,
        hidden_size: int = 200,
        memory_size: int = 128,
        memory_width: int = 40,
        n_reads: int = 4,
        usage_decay: float = 0.99,
        **common: Unpack[CommonParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.hidden_size = hidden_size
        self.memory_size = memory_size
        self.memory_width = memory_width
        self.n_reads = n_reads
        self.usage_decay = usage_decay

    _structural_parameters = (
        *SequenceEstimator._structural_parameters,
        *("hidden_size", "memory_size", "memory_width", "n_reads", "usage_decay"),
    )

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name in ("hidden_size", "memory_size", "memory_width", "n_reads"):
            check_integer(name, getattr(self, name), 1)
        check_positive("usage_decay", self.usage_decay)
        if self.usage_decay > 1:
            raise ValueError(
                f"usage_decay must be in (0, 1], got {self.usage_decay!r}: memory rows "
                "that are not used count as less used from step to step."
            )
        if self.n_reads > self.memory_size:
            raise ValueError(
                f"n_reads must be at most memory_size, got {self.n_reads} and "
                f"{self.memory_size}: each read has a memory row of its own to write."
            )

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> MANN:
        return MANN(
            backbone,
            n_features,
            n_outputs,
            task_type="classification" if self._classifies else "regression",
            n_ways=n_ways,
            hidden_size=self.hidden_size,
            memory_size=self.memory_size,
            memory_width=self.memory_width,
            n_reads=self.n_reads,
            usage_decay=self.usage_decay,
            generator=generator,
        )


@with_common_parameters
class MANNClassifier(MetaClassifierMixin, _MANNEstimator):
    """Classifier that writes support rows into a memory, and reads it by content.

    Memory-augmented neural networks [1]_: adapting is reading the support rows one
    after another, in an order that follows from their features. No gradient steps at
    adaptation; made for few rows, since thousands take seconds. For as many classes as
    in meta-training, or fewer.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for rows as they are and
        the pixels of images, as in the paper.

    hidden_size : int, default=200
        Units of the controller, an LSTM.

    memory_size : int, default=128
        Rows of the memory.

    memory_width : int, default=40
        Numbers in a row of the memory.

    n_reads : int, default=4
        How many rows are read in a step, and written.

    usage_decay : float, default=0.99
        Factor of the usage of memory rows from step to step; the least used are
        written to.

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    RecurrentNetClassifier : The same with an LSTM's own memory alone.
    ProtoNetClassifier : Takes any number of classes.

    References
    ----------
    .. [1] A. Santoro, S. Bartunov, M. Botvinick, D. Wierstra, T. Lillicrap, "One-shot
       Learning with Memory-Augmented Neural Networks", ICML 2016, arXiv:1605.06065.

    Examples
    --------
    >>> from sklmeta import MANNClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = MANNClassifier(n_shot=1, max_iter=3, random_state=0).fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """


@with_common_parameters
class MANNRegressor(EpisodicRegressorMixin, _MANNEstimator):
    """Regressor that writes support rows into a memory, and reads it by content.

    Memory-augmented neural networks [1]_: adapting is reading the support rows one
    after another, in an order that follows from their features. No gradient steps at
    adaptation.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for rows as they are and
        the pixels of images.

    hidden_size : int, default=200
        Units of the controller, an LSTM.

    memory_size : int, default=128
        Rows of the memory.

    memory_width : int, default=40
        Numbers in a row of the memory.

    n_reads : int, default=4
        How many rows are read in a step, and written.

    usage_decay : float, default=0.99
        Factor of the usage of memory rows from step to step; the least used are
        written to.

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    MANNClassifier : The same for labels.
    RecurrentNetRegressor : The same with an LSTM's own memory alone.

    References
    ----------
    .. [1] A. Santoro, S. Bartunov, M. Botvinick, D. Wierstra, T. Lillicrap, "One-shot
       Learning with Memory-Augmented Neural Networks", ICML 2016, arXiv:1605.06065.

    Examples
    --------
    >>> from sklmeta import MANNRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(50, random_state=0)
    >>> meta = MANNRegressor(max_iter=3, random_state=0).fit(tasks[:40])
    >>> new = tasks[40]
    >>> meta.adapt(new.X[:5], new.y[:5]).predict(new.X[5:]).shape
    (15,)
    """
