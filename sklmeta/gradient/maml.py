r"""Model-agnostic meta-learning: an initialisation that a few gradient steps adapt.

For a task with support loss :math:`\mathcal{L}^s` the inner loop takes
:math:`k` steps (equation 1 of the paper)

.. math:: \theta_{j+1} = \theta_j - \alpha \nabla_{\theta_j} \mathcal{L}^s(\theta_j),
          \qquad \theta_0 = \theta,

and the outer loop minimises the query loss of the adapted weights over tasks,
:math:`\min_\theta \sum_i \mathcal{L}^q_i(\theta_k)` (equation 2), differentiating
through the inner steps (second order), or taking
:math:`\nabla_{\theta_k} \mathcal{L}^q` for the meta-gradient (first order).

Deviations from the paper
-------------------------
- With local labels the ways' output weights do not start from meta-learned vectors of
  their own, unless ``head="fixed"`` says so: see `sklmeta.gradient.heads`. With
  ``head="shared"`` they start at zero, and the first inner step moves the head alone;
  the backbone adapts from the second step on, so with ``inner_steps=1`` it does not
  adapt at all.
- Batch normalisation of query rows uses the statistics of the *support* rows, so that
  a prediction depends on no other query row. `transductive=True` uses the statistics
  of the query batch, as the paper's code does.

References
----------
Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks", ICML 2017, arXiv:1703.03400.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import nn

from sklmeta._parameters import check_choice, check_integer, check_positive
from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.batches import Rows
from sklmeta.engine.learner import State
from sklmeta.episodic import EpisodicRegressorMixin
from sklmeta.gradient._estimator import (
    GradientMetaLearner,
    GradientParameters,
    with_gradient_parameters,
)
from sklmeta.gradient.network import GradientLearner

__all__ = ["MAML", "MAMLClassifier", "MAMLRegressor"]


class MAML(GradientLearner):
    """MAML as a torch module.

    Parameters
    ----------
    backbone, n_features, n_outputs
        As `GradientLearner` takes them.
    inner_lr : float, default=0.01
        Step size of the inner loop.
    inner_steps : int, default=1
        Gradient steps of the inner loop.
    first_order : bool, default=False
        Leave out the second derivatives.
    **network
        Further parameters of `GradientLearner`: `task_type`, `head`, `n_ways`,
        `transductive`, `generator`.

    Examples
    --------
    Without scikit-learn, on two tasks of five support and ten query rows:

    >>> import torch
    >>> from sklmeta.backbones import MLP
    >>> from sklmeta.engine.batches import Episodes, Rows
    >>> from sklmeta.gradient import MAML
    >>> x, mask = torch.linspace(-1, 1, 15).repeat(2, 1), torch.ones(2, 15).bool()
    >>> x, y = x.unsqueeze(2), torch.stack([x[0], -x[1]]).unsqueeze(2)
    >>> support = Rows(x[:, ::3], y[:, ::3], mask[:, ::3])
    >>> query = Rows(x[:, 1:11], y[:, 1:11], mask[:, 1:11])
    >>> generator = torch.Generator().manual_seed(0)
    >>> backbone = MLP(1, (16,), generator=generator)
    >>> learner = MAML(
    ...     backbone, 16, 1, task_type="regression", inner_lr=0.1, generator=generator
    ... )
    >>> optimizer = torch.optim.Adam(learner.parameters(), 0.01)
    >>> losses = []
    >>> for _ in range(50):
    ...     optimizer.zero_grad()
    ...     loss = learner.meta_loss(Episodes(support, query)).mean()
    ...     loss.backward()
    ...     optimizer.step()
    ...     losses.append(loss.item())
    >>> losses[-1] < losses[0] / 2
    True
    >>> with torch.no_grad():
    ...     learner.predict(learner.adapt(support), query.x).shape
    torch.Size([2, 10, 1])
    """

    adaptation_options = ("inner_lr", "inner_steps")

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        first_order: bool = False,
        **network: Any,
    ) -> None:
        super().__init__(backbone, n_features, n_outputs, **network)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order

    def adapt(self, support: Rows) -> State:
        """Take the inner gradient steps on each task's support rows.

        Parameters
        ----------
        support : Rows
            x (T, S, *F), y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,).

        Returns
        -------
        dict
            See `GradientLearner.state`.

        Raises
        ------
        ValueError
            If labels are local and `support.n_way` is missing.
        """
        weights, ways = self.initial_weights(support), self.ways(support)
        create_graph = torch.is_grad_enabled() and not self.first_order
        for _ in range(self.inner_steps):
            gradients = self.support_gradients(
                weights, support, ways, create_graph=create_graph
            )
            weights = {  # equation (1)
                name: weight.sub(gradients[name], alpha=self.inner_lr)
                for name, weight in weights.items()
            }
        return self.state(weights, support, ways)


class _MAMLEstimator(GradientMetaLearner):
    """What the two faces of MAML share."""

    _adaptation_parameters = ("inner_lr", "inner_steps")
    _step_sizes = ("inner_lr", "outer_lr")
    _structural_parameters = (
        *GradientMetaLearner._structural_parameters,
        "first_order",
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        inner_lr: float = 0.05,
        inner_steps: int = 5,
        first_order: bool = False,
        **common: Unpack[GradientParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("inner_lr", self.inner_lr)
        check_integer("inner_steps", self.inner_steps, 0)
        check_choice("first_order", self.first_order, (True, False))

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> MAML:
        return MAML(
            backbone,
            n_features,
            n_outputs,
            inner_lr=self.inner_lr,
            inner_steps=self.inner_steps,
            first_order=self.first_order,
            **self._network_options(n_features, n_outputs, n_ways),
            generator=generator,
        )


@with_gradient_parameters
class MAMLClassifier(MetaClassifierMixin, _MAMLEstimator):
    """Classifier that adapts by a few gradient steps from a meta-learned start.

    Model-agnostic meta-learning [1]_: the weights from which `inner_steps` gradient
    steps on a new task's support rows predict its other rows best. Works with labels
    that mean the same in every task, and with labels that mean something only inside
    one (any number of ways).

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function of the input shape that
        returns one, or None for an MLP (rows) or a four-block convolution net (images).

    inner_lr : float, default=0.05
        Step size of the inner loop. Read when adapting.

    inner_steps : int, default=5
        Gradient steps of the inner loop, in meta-training and when adapting; change it
        after `fit` to adapt further.

    first_order : bool, default=False
        Leave out second derivatives: cheaper, often as good.

    <gradient parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    MAMLRegressor : The same for numbers.
    ProtoNetClassifier : Adapts by class means, without gradient steps.

    Notes
    -----
    The cost of a meta-update grows with `batch_size` times `inner_steps`. For images on
    a CPU start with ``inner_steps=1``, ``batch_size=4`` and a backbone that strides
    instead of pooling (``ConvNet(shape, downsample="stride")``).

    References
    ----------
    .. [1] C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast
       Adaptation of Deep Networks", ICML 2017, arXiv:1703.03400.

    Examples
    --------
    >>> from sklmeta import MAMLClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = MAMLClassifier(n_shot=1, max_iter=3, random_state=0).fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """


@with_gradient_parameters
class MAMLRegressor(EpisodicRegressorMixin, _MAMLEstimator):
    """Regressor that adapts by a few gradient steps from a meta-learned start.

    Model-agnostic meta-learning [1]_: the weights from which `inner_steps` gradient
    steps on a new task's support rows predict its other rows best.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function of the input shape that
        returns one, or None for an MLP (rows) or a four-block convolution net (images).

    inner_lr : float, default=0.05
        Step size of the inner loop. Read when adapting.

    inner_steps : int, default=5
        Gradient steps of the inner loop, in meta-training and when adapting; change it
        after `fit` to adapt further, or to 0 for the predictions before adaptation.

    first_order : bool, default=False
        Leave out second derivatives: cheaper, often as good.

    <gradient parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    MAMLClassifier : The same for labels.

    References
    ----------
    .. [1] C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast
       Adaptation of Deep Networks", ICML 2017, arXiv:1703.03400.

    Examples
    --------
    >>> from sklmeta import MAMLRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(200, random_state=0)
    >>> meta = MAMLRegressor(max_iter=200, random_state=0).fit(tasks[:150])
    >>> new = tasks[150]
    >>> model = meta.adapt(new.X[:5], new.y[:5])
    >>> model.predict(new.X[5:]).shape
    (15,)
    >>> meta.score(tasks[150:]) > 0
    True
    """
