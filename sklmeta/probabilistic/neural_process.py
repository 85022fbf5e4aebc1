r"""Neural processes: networks from a context set to a predictive distribution.

A conditional neural process encodes each support row (context) with its label, pools
the codes to :math:`r_C`, and decodes a normal distribution, or class probabilities, for
each query row (target),

.. math:: r_C = \rho\Bigl(\frac{1}{|C|} \sum_{i \in C} h(x_i, y_i)\Bigr), \qquad
   p(y \mid x, C) = \mathcal N\bigl(y; \mu(x, r_C), \sigma^2(x, r_C)\bigr), \qquad (1)

and is trained on the log density of targets. An attentive one reads the context anew
for each query row, :math:`r_C(x) = \mathrm{MultiHead}(x, \{x_i\}, \{h(x_i, y_i)\})`,
and lets context rows attend to each other before. A latent one adds a normal variable
of the task, :math:`q(z \mid C)`, which makes whole functions of one draw agree,

.. math:: p(y_{1:n} \mid x_{1:n}, C) = \int \prod_i p(y_i \mid x_i, r_C, z)
   \, q(z \mid C) \, dz, \qquad (2)

and is trained on the bound

.. math:: \log p(y_T \mid x_T, C) \ge \mathbb E_{q(z \mid T)}
   [\log p(y_T \mid x_T, r_C, z)]
   - \mathrm{KL}\bigl(q(z \mid T) \,\|\, q(z \mid C)\bigr), \qquad (3)

where the targets :math:`T` are context and query rows together, as in the papers. Its
predictions are mixtures over draws of z; what is reported of a number is the mixture's
mean and standard deviation.

Deviations from the papers
--------------------------
- With local labels one question is asked for each way, whether a row is of it, by the
  same network; see `sklmeta.probabilistic._context_learner`. A latent variable is one
  for the task: it sees the mean over the ways.
- Beside :math:`r_C`, or :math:`r_C(x)`, the decoder always sees a second code of the
  whole context: z, or where there is none a pooled code. So all variants have the same
  size, as in the code of bootstrapping neural processes (Lee et al. 2020) and of
  transformer neural processes, whose layer sizes are the defaults.
- Attention is a layer of a transformer, with its residual sums and normalisation.
- Support rows are hidden in a share of the training episodes (`prior_fraction`), so
  that predictions without any are those of a prior; not with local labels, which have
  none. The conditional process's paper draws context sizes from 0 on.
- With `n_train_samples` above 1, as by default, the bound is the importance-weighted
  one of Burda, Grosse and Salakhutdinov (arXiv:1509.00519), as in the code of Lee et
  al.

References
----------
Garnelo et al., "Conditional Neural Processes", ICML 2018, arXiv:1807.01613. Garnelo et
al., "Neural Processes", 2018, arXiv:1807.01622. Kim et al., "Attentive Neural
Processes", ICLR 2019, arXiv:1901.05761. Lee et al., "Bootstrapping Neural Processes",
NeurIPS 2020, arXiv:2008.02956.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, Unpack

import torch
from torch import nn

from sklmeta._parameters import (
    check_choice,
    check_integer,
    check_positive,
    filled_in,
    with_common_parameters,
)
from sklmeta._probabilistic import (
    ProbabilisticClassifierMixin,
    ProbabilisticRegressorMixin,
)
from sklmeta.probabilistic._context_estimator import (
    CONTEXT_PARAMETERS,
    ContextEstimator,
    ContextParameters,
    check_heads,
)
from sklmeta.probabilistic._neural_process import NeuralProcess

__all__ = ["NeuralProcess", "NeuralProcessClassifier", "NeuralProcessRegressor"]

NEURAL_PROCESS_PARAMETERS = """\
latent : bool, default=False
    Whether a task has a latent variable, so that whole functions are drawn.

attention : bool, default=True
    Whether query rows attend to the support rows, and these to each other; else the
    support is pooled.

hidden_size : int, default=128
    Width of layers, of codes and of the latent variable.

encoder_depth : int, default=4
    Linear layers that encode a row; self-attention counts for two.

decoder_depth : int, default=3
    Linear layers that decode.

n_heads : int, default=8
    Attention heads; with `attention` they divide `hidden_size`.

n_samples : int, default=30
    Draws of the latent variable that a prediction averages over. Read when adapting.

n_train_samples : int, default=8
    Draws of it in a meta-update: 1 for the evidence lower bound of the papers, more for
    the tighter importance-weighted one. With 1 the variable may go unused, above all
    beside `attention`: the draws of a task are then much alike.
"""

Class = TypeVar("Class", bound=type)


def _with_parameters(cls: Class) -> Class:
    texts = {
        "<neural process parameters>": NEURAL_PROCESS_PARAMETERS,
        "<context parameters>": CONTEXT_PARAMETERS,
    }
    return with_common_parameters(filled_in(cls, texts))


class NeuralProcessParameters(ContextParameters, total=False):
    """What `_NeuralProcessEstimator` takes, for subclasses that pass it on by name."""

    latent: bool
    attention: bool
    hidden_size: int
    encoder_depth: int
    decoder_depth: int
    n_heads: int
    n_samples: int
    n_train_samples: int


class _NeuralProcessEstimator(ContextEstimator):
    """What the classifier and the regressor share."""

    _adaptation_parameters: ClassVar[tuple[str, ...]] = ("n_samples",)
    _structural_parameters = (
        *ContextEstimator._structural_parameters,
        *("latent", "attention", "hidden_size", "encoder_depth", "decoder_depth"),
        *("n_heads", "n_train_samples"),
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        latent: bool = False,
        attention: bool = True,
        hidden_size: int = 128,
        encoder_depth: int = 4,
        decoder_depth: int = 3,
        n_heads: int = 8,
        n_samples: int = 30,
        n_train_samples: int = 8,
        **common: Unpack[ContextParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.latent = latent
        self.attention = attention
        self.hidden_size = hidden_size
        self.encoder_depth = encoder_depth
        self.decoder_depth = decoder_depth
        self.n_heads = n_heads
        self.n_samples = n_samples
        self.n_train_samples = n_train_samples

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name in ("latent", "attention"):
            check_choice(name, getattr(self, name), (True, False))
        counts = ("hidden_size", "encoder_depth", "decoder_depth")
        for name in (*counts, "n_samples", "n_train_samples"):
            check_integer(name, getattr(self, name), 1)
        if self.attention:
            check_heads(self)

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> NeuralProcess:
        return NeuralProcess(
            backbone,
            n_features,
            n_outputs,
            task_type="classification" if self._classifies else "regression",
            latent=self.latent,
            attention=self.attention,
            hidden_size=self.hidden_size,
            encoder_depth=self.encoder_depth,
            decoder_depth=self.decoder_depth,
            n_heads=self.n_heads,
            n_samples=self.n_samples,
            n_train_samples=self.n_train_samples,
            min_std=getattr(self, "min_std", 0.0),
            prior_fraction=self.prior_fraction,
            generator=generator,
        )


@_with_parameters
class NeuralProcessClassifier(ProbabilisticClassifierMixin, _NeuralProcessEstimator):
    """Classifier that decodes class probabilities from an encoded support.

    Conditional [1]_, latent [2]_ and attentive [3]_ neural processes: adapting encodes
    the support rows with their labels, in one forward pass. Any number of ways, whose
    order does not matter, and of support rows.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for rows as they are and
        a four-block convolution net of images.

    <neural process parameters>

    <context parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    NeuralProcessRegressor : The same for numbers.
    InContextClassifier : Attends to the support rows in every layer.
    ProtoNetClassifier : Compares with class means.

    Notes
    -----
    What labels have in common is learned from scratch: that takes many tasks, or
    classes. With a handful of classes start from a metric learner.

    With labels that mean something in their task alone, cost grows with the number of
    ways: for each of them the network is asked which rows are of it. With shared labels
    a class without support rows can be predicted all the same.

    References
    ----------
    .. [1] M. Garnelo et al., "Conditional Neural Processes", ICML 2018,
       arXiv:1807.01613.
    .. [2] M. Garnelo et al., "Neural Processes", 2018, arXiv:1807.01622.
    .. [3] H. Kim et al., "Attentive Neural Processes", ICLR 2019, arXiv:1901.05761.

    Examples
    --------
    >>> from sklmeta import NeuralProcessClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = NeuralProcessClassifier("identity", max_iter=3, random_state=0)
    >>> meta = meta.fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """


@_with_parameters
class NeuralProcessRegressor(ProbabilisticRegressorMixin, _NeuralProcessEstimator):
    """Regressor that decodes means and standard deviations from an encoded support.

    Conditional [1]_, latent [2]_ and attentive [3]_ neural processes: adapting encodes
    the support rows with their targets, in one forward pass.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for rows as they are and
        a four-block convolution net of images.

    min_std : float, default=0.01
        Least standard deviation, in units of normalised targets. The papers' is 0.1.

    <neural process parameters>

    <context parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    NeuralProcessClassifier : The same for labels.
    InContextRegressor : Attends to the support rows in every layer.
    sklmeta.datasets.GaussianProcessTasks : Simulated tasks to meta-train on.

    Notes
    -----
    Without a latent variable rows are drawn independently of one another by
    `sample_y`; with one each draw is a function.

    References
    ----------
    .. [1] M. Garnelo et al., "Conditional Neural Processes", ICML 2018,
       arXiv:1807.01613.
    .. [2] M. Garnelo et al., "Neural Processes", 2018, arXiv:1807.01622.
    .. [3] H. Kim et al., "Attentive Neural Processes", ICLR 2019, arXiv:1901.05761.

    Examples
    --------
    >>> from sklmeta import NeuralProcessRegressor
    >>> from sklmeta.datasets import GaussianProcessTasks
    >>> tasks = GaussianProcessTasks(n_samples=20)
    >>> meta = NeuralProcessRegressor(latent=True, max_iter=3, random_state=0)
    >>> new = tasks.sample(1, random_state=1)[0]
    >>> model = meta.fit(tasks).adapt(new.X[:5], new.y[:5])
    >>> mean, std = model.predict(new.X[5:], return_std=True)
    >>> mean.shape, std.shape, model.sample_y(new.X[5:], n_samples=4).shape
    ((15,), (15,), (15, 4))
    """

    _structural_parameters = (
        *_NeuralProcessEstimator._structural_parameters,
        "min_std",
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        min_std: float = 0.01,
        **common: Unpack[NeuralProcessParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.min_std = min_std

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("min_std", self.min_std)
