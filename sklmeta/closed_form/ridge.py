r"""R2-D2: ridge regression on meta-learned features, differentiated through.

With the features :math:`Z` (S, D) of a task's support rows, and their targets or
one-hot labels :math:`Y`, adaptation is the closed form

.. math:: W = (Z^\top Z + \lambda I)^{-1} Z^\top Y
            = Z^\top (Z Z^\top + \lambda I)^{-1} Y, \qquad (1)

of which the first is solved where there are more rows than features, and the second
(the Woodbury identity) where there are not. Query rows get the outputs

.. math:: \hat Y = \alpha\, Z_q W, \qquad (2)

and the gradient of their loss, cross-entropy or squared error, flows through (1) into
the features, into :math:`\lambda` and into the scale :math:`\alpha`. Here they go by
scikit-learn's names: :math:`\lambda` is ``alpha``, the penalty of
`sklearn.linear_model.Ridge`, and :math:`1/\alpha` is ``temperature``.

Deviations from the paper
-------------------------
- The intercept is not penalised: features and targets are centred by the means of the
  support rows, so that the head is scikit-learn's Ridge. The authors' code appends a
  constant feature, whose weight is penalised like the others.
- The authors' code divides :math:`Z` and :math:`Y` by the root of the number of rows,
  so that its :math:`\lambda` is ours over that number.
- The paper adds a shift to all logits, which cancels in a softmax: it is left out.
  Numbers are predicted without :math:`\alpha` too, being in the units of the targets.
- What is learned of :math:`\lambda` and :math:`\alpha` are factors, as exponentials,
  so that both stay positive.
- Systems are solved in double precision, where the device has it: small penalties make
  for large condition numbers. A penalty below the rounding errors of the Gram matrix
  counts as these.
- With labels that mean the same in all tasks, a class without support rows in a task
  gets probability 0 there, and its query rows stay out of the meta-training loss.

References
----------
Bertinetto, Henriques, Torr and Vedaldi, "Meta-learning with differentiable closed-form
solvers", ICLR 2019, arXiv:1805.08136.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, Unpack

import torch
from torch import Tensor, nn

from sklmeta._learned_factors import log_factor, times
from sklmeta._parameters import (
    check_choice,
    check_positive,
    filled_in,
    with_common_parameters,
)
from sklmeta.base import MetaClassifierMixin
from sklmeta.closed_form._systems import ridge_weights
from sklmeta.engine.batches import Rows
from sklmeta.engine.embedding import EmbeddingLearner, precise
from sklmeta.engine.learner import State
from sklmeta.episodic import (
    CommonParameters,
    EpisodicMetaLearner,
    EpisodicRegressorMixin,
)

__all__ = ["RidgeNet", "RidgeNetClassifier", "RidgeNetRegressor"]

RIDGE_PARAMETERS = """\
alpha : float, default=1.0
    Penalty on squared weights, as in `sklearn.linear_model.Ridge`. Read when adapting.

learn_alpha : bool, default=True
    Learn in meta-training a factor that multiplies `alpha`.

fit_intercept : bool, default=True
    Whether to fit an intercept, which is not penalised.
"""

Class = TypeVar("Class", bound=type)


def _with_ridge_parameters(cls: Class) -> Class:
    texts = {"<ridge parameters>": RIDGE_PARAMETERS}
    return with_common_parameters(filled_in(cls, texts))


class RidgeNet(EmbeddingLearner):
    """Ridge regression on learned features as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_outputs : int or None
        Number of classes (shared labels) or of targets; None for local labels.
    task_type : {"classification", "regression"}, default="classification"
        What outputs are: logits, or numbers.
    alpha : float, default=1.0
        Penalty on squared weights.
    learn_alpha : bool, default=True
        Learn a factor of `alpha`, from 1.
    fit_intercept : bool, default=True
        Whether to fit an intercept, which is not penalised.
    temperature : float, default=0.1
        Divides the regressed one-hot labels, which makes them logits.
    learn_temperature : bool, default=True
        Learn a factor of `temperature`, from 1; in classification.

    Examples
    --------
    Two points on a line, and hardly a penalty:

    >>> import torch
    >>> from sklmeta.closed_form import RidgeNet
    >>> from sklmeta.engine.batches import Rows
    >>> learner = RidgeNet(
    ...     torch.nn.Identity(), n_outputs=1, task_type="regression", alpha=1e-9
    ... )
    >>> x, y = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[3.0], [5.0]]])
    >>> state = learner.adapt(Rows(x, y, mask=torch.ones(1, 2).bool()))
    >>> learner.predict(state, torch.tensor([[[10.0]]])).item()
    21.0
    """

    adaptation_options: tuple[str, ...] = ("alpha", "temperature")

    def __init__(
        self,
        backbone: nn.Module,
        n_outputs: int | None,
        *,
        task_type: str = "classification",
        alpha: float = 1.0,
        learn_alpha: bool = True,
        fit_intercept: bool = True,
        temperature: float = 0.1,
        learn_temperature: bool = True,
    ) -> None:
        super().__init__(task_type, backbone, n_outputs)
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.temperature = temperature
        classifies = task_type == "classification"
        if not classifies:
            self.adaptation_options = ("alpha",)
        self.log_alpha_factor = log_factor(learn_alpha)
        self.log_temperature_factor = log_factor(learn_temperature and classifies)

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Return the linear model of each task.

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows.
        support : Rows
            y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,) with local labels.

        Returns
        -------
        dict
            "weight" (T, n_features, N) and "intercept" (T, 1, N), in double precision
            where the device has it; with labels also "ways" (T, N), True where a way
            has support rows.
        """
        z = precise(features)
        real = support.mask.unsqueeze(-1).to(z.dtype)  # (T, S, 1)
        state = {}
        if self.task_type == "classification":
            y = self.members(support, z.dtype)  # (T, S, N)
            state["ways"] = y.sum(1) > 0
        else:
            y = support.y.to(z.dtype) * real
        z, z_mean = self._centred(z * real, real)
        y, y_mean = self._centred(y, real)
        alpha = times(self.alpha, self.log_alpha_factor)
        weight = ridge_weights(z, y, alpha)  # equation (1)
        intercept = y_mean - z_mean @ weight
        return {**state, "weight": weight, "intercept": intercept}

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return numbers, or logits: regressed one-hot labels over the temperature.

        Parameters
        ----------
        state : dict
            What `adapt_features` returned.
        features : Tensor of shape (T, Q, n_features)
            Of the query rows.

        Returns
        -------
        Tensor of shape (T, Q, N) or (T, Q, n_outputs)
            -inf for ways without support rows.
        """
        weight = state["weight"]
        outputs = features.to(weight.dtype) @ weight + state["intercept"]
        if self.task_type == "regression":
            return outputs.to(features.dtype)
        temperature = times(self.temperature, self.log_temperature_factor)
        logits = (outputs / temperature).to(features.dtype)  # equation (2)
        return logits.masked_fill(~state["ways"].unsqueeze(1), -torch.inf)

    def _centred(self, values: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (T, S, D) about their means, and those; padding is 0."""
        if not self.fit_intercept:
            return values, values.new_zeros(len(values), 1, values.shape[2])
        mean = values.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
        return (values - mean) * real, mean


class RidgeNetParameters(CommonParameters, total=False):
    """What `_RidgeNetEstimator` takes, for subclasses that pass it on by name."""

    alpha: float
    learn_alpha: bool
    fit_intercept: bool


class _RidgeNetEstimator(EpisodicMetaLearner):
    """What the two faces of RidgeNet share."""

    _adaptation_parameters: ClassVar[tuple[str, ...]] = ("alpha",)
    _structural_parameters = (
        *EpisodicMetaLearner._structural_parameters,
        *("learn_alpha", "fit_intercept"),
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        alpha: float = 1.0,
        learn_alpha: bool = True,
        fit_intercept: bool = True,
        **common: Unpack[CommonParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.alpha = alpha
        self.learn_alpha = learn_alpha
        self.fit_intercept = fit_intercept

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("alpha", self.alpha)
        check_choice("learn_alpha", self.learn_alpha, (True, False))
        check_choice("fit_intercept", self.fit_intercept, (True, False))

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> RidgeNet:
        return RidgeNet(
            backbone,
            n_outputs,
            task_type="classification" if self._classifies else "regression",
            alpha=self.alpha,
            learn_alpha=self.learn_alpha,
            fit_intercept=self.fit_intercept,
            **self._calibration(),
        )

    def _calibration(self) -> dict[str, Any]:
        """Return how outputs become logits."""
        return {}


@_with_ridge_parameters
class RidgeNetClassifier(MetaClassifierMixin, _RidgeNetEstimator):
    """Classifier that fits a ridge regression on meta-learned features.

    R2-D2 [1]_: adapting to a task regresses its one-hot labels on the features of its
    support rows, in closed form, and meta-training learns the features through that,
    together with the penalty and the temperature. Any number of ways and of rows.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or a
        four-block convolution net (images).

    temperature : float, default=0.1
        Divides the regressed labels, which are between 0 and 1 or so, before the
        softmax. Read when adapting.

    learn_temperature : bool, default=True
        Learn in meta-training a factor that multiplies `temperature`.

    <ridge parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    RidgeNetRegressor : The same for numbers.
    ProtoNetClassifier : Compares with class means instead.
    ANILClassifier : Takes gradient steps on the linear layer instead.

    Notes
    -----
    With ``backbone="identity"`` meta-training learns nothing but the penalty and the
    temperature; with `learn_alpha` and `learn_temperature` off there is nothing to
    learn, and `fit` returns at once.

    The paper's recipe for Omniglot, as recalled: four convolution blocks, 60 ways with
    random shots, ``temperature=0.1`` and ``optimizer="adam"`` at ``outer_lr=5e-3``,
    halved every 2,000 episodes.

    References
    ----------
    .. [1] L. Bertinetto, J. F. Henriques, P. H. S. Torr, A. Vedaldi, "Meta-learning
       with differentiable closed-form solvers", ICLR 2019, arXiv:1805.08136.

    Examples
    --------
    >>> from sklmeta import RidgeNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = RidgeNetClassifier(max_iter=20, random_state=0).fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """

    _adaptation_parameters = ("alpha", "temperature")
    _structural_parameters = (
        *_RidgeNetEstimator._structural_parameters,
        "learn_temperature",
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        temperature: float = 0.1,
        learn_temperature: bool = True,
        **common: Unpack[RidgeNetParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.temperature = temperature
        self.learn_temperature = learn_temperature

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("temperature", self.temperature)
        check_choice("learn_temperature", self.learn_temperature, (True, False))

    def _calibration(self) -> dict[str, Any]:
        """Return how outputs become logits."""
        names = ("temperature", "learn_temperature")
        return {name: getattr(self, name) for name in names}


@_with_ridge_parameters
class RidgeNetRegressor(EpisodicRegressorMixin, _RidgeNetEstimator):
    """Regressor that fits a ridge regression on meta-learned features.

    R2-D2 [1]_: adapting to a task is `sklearn.linear_model.Ridge` on the features of
    its support rows, in closed form, and meta-training learns the features through
    that, together with the penalty.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or a
        four-block convolution net (images).

    <ridge parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    RidgeNetClassifier : The same for labels.
    MAMLRegressor : Adapts the whole network by gradient steps.
    PerTaskRegressor : With scikit-learn's Ridge, the same without learned features.

    Notes
    -----
    With ``backbone="identity"`` meta-training learns nothing but the penalty; with
    ``learn_alpha=False`` too there is nothing to learn, and `fit` returns at once.

    References
    ----------
    .. [1] L. Bertinetto, J. F. Henriques, P. H. S. Torr, A. Vedaldi, "Meta-learning
       with differentiable closed-form solvers", ICLR 2019, arXiv:1805.08136.

    Examples
    --------
    >>> from sklmeta import RidgeNetRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(200, random_state=0)
    >>> meta = RidgeNetRegressor(max_iter=200, random_state=0).fit(tasks[:150])
    >>> new = tasks[150]
    >>> model = meta.adapt(new.X[:5], new.y[:5])
    >>> model.predict(new.X[5:]).shape
    (15,)
    >>> meta.score(tasks[150:]) > 0
    True
    """
