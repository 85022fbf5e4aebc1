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
- With local labels every way's head starts at zero instead of at a meta-learned vector
  of its own. A vector shared by all ways cannot change a softmax, so zero is the whole
  family of heads that treat the ways alike; it takes any number of ways at adaptation,
  and the labels' names and order cannot matter (the "zeroing trick" of
  arXiv:2106.15367). From zero, the first inner step moves the head alone; the backbone
  adapts from the second step on, so with ``inner_steps=1`` it does not adapt at all.
- Batch normalisation of query rows uses the statistics of the *support* rows, so that
  a prediction depends on no other query row. `transductive=True` uses the statistics
  of the query batch, as the paper's code does.

References
----------
Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks", ICML 2017, arXiv:1703.03400.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sklmeta._parameters import (
    check_choice,
    check_integer,
    check_positive,
    with_common_parameters,
)
from sklmeta.backbones.normalization import (
    batch_statistics,
    given_statistics,
    recorded_statistics,
)
from sklmeta.base import MetaClassifierMixin, MetaRegressorMixin
from sklmeta.engine.batches import Rows
from sklmeta.engine.learner import Learner, State, way_mask
from sklmeta.engine.mapping import (
    TaskFunction,
    map_module,
    map_tasks,
    mapping_method,
    task_gradients,
)
from sklmeta.episodic import EpisodicMetaLearner

__all__ = ["MAML", "MAMLClassifier", "MAMLRegressor"]

Parameters = dict[str, Tensor]


class MAML(Learner):
    """MAML as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes (shared labels) or of targets; None for local labels, where
        each task has its own number of ways.
    task_type : {"classification", "regression"}
    head : {"linear", "none"}, default="linear"
        "none" where the backbone ends in `n_outputs` outputs itself.
    inner_lr : float, default=0.01
        Step size of the inner loop.
    inner_steps : int, default=1
        Gradient steps of the inner loop.
    first_order : bool, default=False
        Leave out the second derivatives.
    transductive : bool, default=False
        Normalise query rows by the query batch's own statistics.
    generator : torch.Generator, default=None
        Draws the head's initial weights.

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
        task_type: str,
        head: str = "linear",
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        first_order: bool = False,
        transductive: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(task_type)
        self.backbone = backbone
        self.n_features = n_features
        self.n_outputs = n_outputs
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order
        self.transductive = transductive
        self.head = self._make_head(head, generator)

    def _make_head(
        self, head: str, generator: torch.Generator | None
    ) -> nn.Linear | None:
        if head == "none" or self.n_outputs is None:
            return None
        layer = nn.utils.skip_init(nn.Linear, self.n_features, self.n_outputs)
        bound = self.n_features**-0.5
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        return layer

    def adapt(self, support: Rows) -> State:
        """Take the inner gradient steps on each task's support rows.

        Parameters
        ----------
        support : Rows
            x (T, S, *F), y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,).

        Returns
        -------
        dict
            "parameters": adapted weights by name, "ways": which ways each task has
            (T, N), "statistics": batch statistics of the support rows.

        Raises
        ------
        ValueError
            If labels are local and `support.n_way` is missing.
        """
        weights, ways = self._initial_parameters(support)
        differentiable = torch.is_grad_enabled() and not self.first_order

        def support_loss(weights: Parameters) -> Tensor:
            return self.loss(self._outputs(weights, support.x, ways), support)

        for _ in range(self.inner_steps):
            gradients = task_gradients(
                support_loss, weights, create_graph=differentiable
            )
            weights = {  # equation (1)
                name: weight.sub(gradients[name], alpha=self.inner_lr)
                for name, weight in weights.items()
            }
        statistics = self._support_statistics(weights, support.x)
        return {"parameters": weights, "ways": ways, "statistics": statistics}

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return logits or numbers of the adapted networks for query rows.

        Parameters
        ----------
        state : dict
            What `adapt` returned.
        x : Tensor of shape (T, Q, *F)
            Query rows.

        Returns
        -------
        Tensor of shape (T, Q, N) or (T, Q, n_outputs)
            Logits of ways, or numbers.
        """
        return self._outputs(state["parameters"], x, state["ways"], state["statistics"])

    def _initial_parameters(self, support: Rows) -> tuple[Parameters, Tensor]:
        """Return the weights before adaptation, (T, ...) each, and the ways (T, N)."""
        n_tasks = len(support)
        weights = {
            name: weight.expand(n_tasks, *weight.shape)
            for name, weight in self.named_parameters()
            if weight.requires_grad
        }
        if self.n_outputs is not None:
            shape = (n_tasks, self.n_outputs)
            return weights, torch.ones(shape, dtype=torch.bool, device=support.x.device)
        if support.n_way is None:
            raise ValueError(
                "MAML with local labels (n_outputs=None) needs Rows.n_way, the number "
                "of ways of each task."
            )
        n_ways = int(support.n_way.max())
        weights["head.weight"] = support.x.new_zeros(n_tasks, n_ways, self.n_features)
        weights["head.bias"] = support.x.new_zeros(n_tasks, n_ways)
        return weights, way_mask(support.n_way, n_ways)

    def _support_statistics(
        self, weights: Parameters, x: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each layer's mean and variance of the support rows, once adapted."""
        if self.transductive or not self.needs_equal_rows:
            return {}

        def record(weights: Parameters, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
            with batch_statistics(self.backbone, record=True):
                functional_call(self.backbone, weights, (x,))
                return recorded_statistics(self.backbone)

        return self._map(record, _below("backbone.", weights), x)

    def _outputs(
        self,
        weights: Parameters,
        x: Tensor,
        ways: Tensor,
        statistics: dict[str, tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Map rows (T, S, *F) to (T, S, N) or (T, S, n_outputs).

        Without `statistics`, batch normalisation uses those of the rows.
        """
        features = self._features(_below("backbone.", weights), x, statistics)
        if self.head is None and self.n_outputs is not None:
            return features
        bias, weight = weights["head.bias"], weights["head.weight"]
        outputs = torch.baddbmm(bias.unsqueeze(1), features, weight.mT)
        if self.n_outputs is not None:
            return outputs
        return outputs.masked_fill(~ways.unsqueeze(1), -torch.inf)

    def _features(
        self,
        weights: Parameters,
        x: Tensor,
        statistics: dict[str, tuple[Tensor, Tensor]] | None,
    ) -> Tensor:
        if not statistics:
            method = mapping_method(self, x.device)
            with batch_statistics(self.backbone):
                return map_module(self.backbone, weights, x, method=method)

        def normalised(
            weights: Parameters, x: Tensor, own: dict[str, tuple[Tensor, Tensor]]
        ) -> Tensor:
            with given_statistics(self.backbone, own):
                return functional_call(self.backbone, weights, (x,))

        return self._map(normalised, weights, x, statistics)

    def _map(self, function: TaskFunction, weights: Parameters, *args: Any) -> Any:
        """Apply a function of one task's weights and rows to every task."""
        method = mapping_method(self, args[0].device)
        in_dims = (0,) * (1 + len(args))
        return map_tasks(function, weights, *args, in_dims=in_dims, method=method)


def _below(prefix: str, weights: Parameters) -> Parameters:
    """Return the weights whose names start with `prefix`, without it."""
    start = len(prefix)
    return {n[start:]: w for n, w in weights.items() if n.startswith(prefix)}


class _MAMLEstimator(EpisodicMetaLearner):
    """What the two faces of MAML share."""

    _adaptation_parameters = ("inner_lr", "inner_steps")
    _step_sizes = ("inner_lr", "outer_lr")
    _structural_parameters = (
        *EpisodicMetaLearner._structural_parameters,
        "first_order",
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        inner_lr: float = 0.05,
        inner_steps: int = 5,
        first_order: bool = False,
        head: str = "linear",
        transductive: bool = False,
        n_way: Any = None,
        n_shot: Any = 5,
        n_query: Any = 15,
        support_order: str = "random",
        small_tasks: str = "shrink",
        image_shape: Any = None,
        normalize_x: bool = True,
        outer_lr: float = 1e-3,
        optimizer: Any = "adam",
        batch_size: int = 16,
        max_iter: int = 1000,
        eval_every: int = 100,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        callbacks: Any = None,
        device: Any = "auto",
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            backbone,
            n_way=n_way,
            n_shot=n_shot,
            n_query=n_query,
            support_order=support_order,
            small_tasks=small_tasks,
            image_shape=image_shape,
            normalize_x=normalize_x,
            outer_lr=outer_lr,
            optimizer=optimizer,
            batch_size=batch_size,
            max_iter=max_iter,
            eval_every=eval_every,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            callbacks=callbacks,
            device=device,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
        )
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order
        self.head = head
        self.transductive = transductive

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("inner_lr", self.inner_lr)
        check_integer("inner_steps", self.inner_steps, 0)
        check_choice("head", self.head, ("linear", "none"))
        check_choice("first_order", self.first_order, (True, False))
        check_choice("transductive", self.transductive, (True, False))

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        generator: torch.Generator,
    ) -> MAML:
        if self.head == "none" and n_features != n_outputs:
            needed = (
                f"{n_outputs}" if n_outputs else "one for each way, as many as come"
            )
            raise ValueError(
                "With head='none' the backbone's outputs are the predictions: it "
                f"gives {n_features}, and the tasks need {needed}. Use head='linear', "
                "or a backbone that ends in what the tasks need."
            )
        return MAML(
            backbone,
            n_features,
            n_outputs,
            task_type="classification" if self._classifies else "regression",
            head=self.head,
            inner_lr=self.inner_lr,
            inner_steps=self.inner_steps,
            first_order=self.first_order,
            transductive=self.transductive,
            generator=generator,
        )


@with_common_parameters
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

    head : {"linear", "none"}, default="linear"
        "none" for a `backbone` that ends in the outputs itself.

    transductive : bool, default=False
        Normalise query rows by the query batch's statistics, as the paper does; a
        prediction then depends on the other rows in the call. Acts only where
        `backbone` has batch normalisation.

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


@with_common_parameters
class MAMLRegressor(MetaRegressorMixin, _MAMLEstimator):
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

    head : {"linear", "none"}, default="linear"
        "none" for a `backbone` that ends in the outputs itself.

    transductive : bool, default=False
        Normalise query rows by the query batch's statistics, as the paper does; a
        prediction then depends on the other rows in the call. Acts only where
        `backbone` has batch normalisation.

    normalize_y : bool or "task", default=True
        Scale targets to mean 0 and standard deviation 1 over the meta-training tasks;
        "task" takes level and spread from each task's support rows, shrunk towards
        what the meta-training tasks have in common.

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

    def __init__(
        self,
        backbone: Any = None,
        *,
        inner_lr: float = 0.05,
        inner_steps: int = 5,
        first_order: bool = False,
        head: str = "linear",
        transductive: bool = False,
        normalize_y: bool | str = True,
        n_way: Any = None,
        n_shot: Any = 5,
        n_query: Any = 15,
        support_order: str = "random",
        small_tasks: str = "shrink",
        image_shape: Any = None,
        normalize_x: bool = True,
        outer_lr: float = 1e-3,
        optimizer: Any = "adam",
        batch_size: int = 16,
        max_iter: int = 1000,
        eval_every: int = 100,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        callbacks: Any = None,
        device: Any = "auto",
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            backbone,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            first_order=first_order,
            head=head,
            transductive=transductive,
            n_way=n_way,
            n_shot=n_shot,
            n_query=n_query,
            support_order=support_order,
            small_tasks=small_tasks,
            image_shape=image_shape,
            normalize_x=normalize_x,
            outer_lr=outer_lr,
            optimizer=optimizer,
            batch_size=batch_size,
            max_iter=max_iter,
            eval_every=eval_every,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            callbacks=callbacks,
            device=device,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
        )
        self.normalize_y = normalize_y
