r"""Transductive inference: the query rows of a task, seen at once, refine each other.

Prototypical networks are meta-trained, and predict, as ever. On request their class
means and probabilities are refined by *all query rows of the task together*, in one of
three ways:

- ``"soft_kmeans"``: class means become means of support and query rows, weighted by
  the probability that a query row is of the class (Ren et al., section 3.1.1).
- ``"laplacian"``: query rows that are near each other agree (Ziko et al.).
- ``"mutual_information"``: class means move so that query rows are told apart surely,
  and the classes are evenly common among them (Boudiaf et al., TIM-ADM).

The functions are in `sklmeta.metric._refinements`, with their equations.

Deviations from the papers
--------------------------
- Distances, their temperature and features are those of the prototypical network;
  LaplacianShot and TIM normalise the features of a network trained as a classifier.
- Ren et al. refine while meta-training, too. Here meta-training is inductive.
- LaplacianShot first corrects class means for how query rows differ from support
  rows. Not here.
- Iterations are of a given number, without a test of convergence.

References
----------
Ren et al., "Meta-Learning for Semi-Supervised Few-Shot Classification", ICLR 2018,
arXiv:1803.00676.
Ziko, Dolz, Granger and Ben Ayed, "Laplacian Regularized Few-Shot Learning", ICML 2020,
arXiv:2006.15486.
Boudiaf et al., "Transductive Information Maximization For Few-Shot Learning", NeurIPS
2020, arXiv:2008.11297.
"""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sklmeta._adapted import TorchModel
from sklmeta._parameters import (
    check_choice,
    check_integer,
    check_not_negative,
    with_common_parameters,
)
from sklmeta.engine.batches import Rows
from sklmeta.engine.learner import Learner, State
from sklmeta.episodic import CommonParameters
from sklmeta.metric._refinements import (
    Evidence,
    laplacian,
    mutual_information,
    soft_kmeans,
)
from sklmeta.metric.protonet import ProtoNet, ProtoNetClassifier

__all__ = ["TransductiveProtoNet", "TransductiveProtoNetClassifier"]

# Steps that the papers take.
N_STEPS = {"soft_kmeans": 1, "laplacian": 20, "mutual_information": 150}


class TransductiveProtoNet(ProtoNet):
    """Prototypical network whose predictions query rows refine together.

    `predict` takes all query rows of a task in one call; without steps it predicts
    each by itself, as `ProtoNet` does.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_outputs : int or None
        Number of classes (shared labels), None for local labels.
    refinement : {"soft_kmeans", "laplacian", "mutual_information"}, \
            default="soft_kmeans"
        How query rows refine predictions.
    n_refinement_steps : int, default=0
        How many times.
    laplacian_weight : float, default=1.0
        How much a neighbour's vote counts, with "laplacian".
    n_neighbors : int, default=3
        Neighbours of a query row, with "laplacian".
    support_weight : float, default=0.1
        Weight of the support rows' cross-entropy, with "mutual_information".
    entropy_weight : float, default=0.1
        Weight of each query row's own entropy, with "mutual_information".
    **options : dict
        Of `ProtoNet`: metric, temperature and others.

    Examples
    --------
    The last two query rows draw their class mean with them:

    >>> import torch
    >>> from sklmeta.engine.batches import Rows
    >>> from sklmeta.metric import TransductiveProtoNet
    >>> x, y = torch.tensor([[[0.0], [4.0]]]), torch.tensor([[0, 1]])
    >>> support = Rows(x, y, mask=torch.ones(1, 2).bool(), n_way=torch.tensor([2]))
    >>> query = torch.tensor([[[2.2], [6.0], [7.0]]])
    >>> learner = TransductiveProtoNet(torch.nn.Identity(), n_outputs=None)
    >>> learner.predict(learner.adapt(support), query).argmax(-1)
    tensor([[1, 1, 1]])
    >>> refined = learner.with_options(n_refinement_steps=1)
    >>> refined.predict(refined.adapt(support), query).argmax(-1)
    tensor([[0, 1, 1]])
    """

    adaptation_options = (
        *ProtoNet.adaptation_options,
        *("refinement", "n_refinement_steps", "laplacian_weight", "n_neighbors"),
        *("support_weight", "entropy_weight"),
    )

    def __init__(
        self,
        backbone: nn.Module,
        n_outputs: int | None,
        *,
        refinement: str = "soft_kmeans",
        n_refinement_steps: int = 0,
        laplacian_weight: float = 1.0,
        n_neighbors: int = 3,
        support_weight: float = 0.1,
        entropy_weight: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(backbone, n_outputs, **options)
        self.refinement = refinement
        self.n_refinement_steps = n_refinement_steps
        self.laplacian_weight = laplacian_weight
        self.n_neighbors = n_neighbors
        self.support_weight = support_weight
        self.entropy_weight = entropy_weight

    @property
    def transductive(self) -> bool:  # type: ignore[override]
        """Whether query rows must come together."""
        return self.n_refinement_steps > 0

    @property
    def needs_equal_rows(self) -> bool:
        """Whether padded query rows would count."""
        return self.transductive or super().needs_equal_rows

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Return the prototypes of each task, and what refining them takes.

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows.
        support : Rows
            y (T, S), mask (T, S), n_way (T,) with local labels.

        Returns
        -------
        dict
            What `ProtoNet` returns, "counts" (T, N) of support rows, and with
            "mutual_information" their "features" (T, S, n_features) and "member"
            (T, S, N), 1 where a row is of a way.
        """
        state = super().adapt_features(features, support)
        member = self.members(support, features.dtype)
        state["counts"] = member.sum(1)
        if self.refinement == "mutual_information":
            state |= {"features": features, "member": member}
        return state

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return logits of query rows, refined by all of them.

        Parameters
        ----------
        state : dict
            What `adapt_features` returned.
        features : Tensor of shape (T, Q, n_features)
            Of all query rows of each task.

        Returns
        -------
        Tensor of shape (T, Q, N)
            -inf for ways without support rows.
        """
        if not self.n_refinement_steps:
            return super().predict_features(state, features)
        return getattr(self, f"_by_{self.refinement}")(state, features)

    def _logits(self, state: State, features: Tensor, prototypes: Tensor) -> Tensor:
        """Return logits (T, Q, N) for other prototypes than those of the state."""
        return super().predict_features({**state, "prototypes": prototypes}, features)

    def _by_soft_kmeans(self, state: State, features: Tensor) -> Tensor:
        return soft_kmeans(
            state["prototypes"],
            state["counts"],
            features,
            lambda prototypes: self._logits(state, features, prototypes),
            n_steps=self.n_refinement_steps,
        )

    def _by_laplacian(self, state: State, features: Tensor) -> Tensor:
        unit = F.normalize(features, dim=-1) if self.metric == "cosine" else features
        return laplacian(
            self._logits(state, features, state["prototypes"]),
            unit,
            n_steps=self.n_refinement_steps,
            weight=self.laplacian_weight,
            n_neighbors=self.n_neighbors,
        )

    def _by_mutual_information(self, state: State, features: Tensor) -> Tensor:
        return mutual_information(
            state["prototypes"],
            Evidence(state["features"], state["member"]),
            features,
            lambda rows, prototypes: self._logits(state, rows, prototypes),
            n_steps=self.n_refinement_steps,
            support_weight=self.support_weight,
            entropy_weight=self.entropy_weight,
        )


class TransductiveModel(TorchModel):
    """An adapted prototypical network that can also refine its predictions."""

    def predict_transductive(self, X: Any) -> NDArray[Any]:
        """Return positions of classes (Q,)."""
        return self._outputs(X, self._refining()).argmax(-1).numpy()

    def predict_proba_transductive(self, X: Any) -> NDArray[np.float64]:
        """Return probabilities of the classes (Q, n_classes)."""
        outputs = self._outputs(X, self._refining())
        return torch.softmax(outputs.double(), dim=-1).numpy()

    def _refining(self) -> Learner:
        learner = self.meta._configured_learner()
        return learner.with_options(n_refinement_steps=self.meta._n_steps())


@with_common_parameters
class TransductiveProtoNetClassifier(ProtoNetClassifier):
    """Prototypical network whose query rows may refine each other's predictions.

    `predict` and `predict_proba` are those of `ProtoNetClassifier`: rows are predicted
    one by one. `predict_transductive` and `predict_proba_transductive`, here and on
    what `adapt` returns, take *all query rows of a task at once* and predict them
    together; the answer for a row then depends on the others. Scores and
    `predict_tasks` are those of `predict`.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or a
        four-block convolution net (images).

    refinement : {"soft_kmeans", "laplacian", "mutual_information"}, \
            default="soft_kmeans"
        "soft_kmeans" moves class means towards query rows by their probabilities
        [1]_. "laplacian" lets neighbouring query rows agree [2]_. "mutual_information"
        maximises what query rows say about classes [3]_; it *assumes that all classes
        are about equally common among the query rows*, and harms where they are not.
        Read when adapting.

    n_refinement_steps : int, default=None
        How many times; None means 1 for "soft_kmeans", 20 for "laplacian" and 150 for
        "mutual_information". 0 gives the predictions of `predict`. Read when adapting.

    laplacian_weight : float, default=1.0
        How much each neighbour's vote adds to a logit, with "laplacian"; 0 gives the
        predictions of `predict`. Read when adapting.

    n_neighbors : int, default=3
        Neighbours of a query row among the others, with "laplacian". Read when
        adapting.

    support_weight : float, default=0.1
        Weight of the support rows' cross-entropy, with "mutual_information". Read when
        adapting.

    entropy_weight : float, default=0.1
        Weight of the query rows' own entropies, with "mutual_information". Read when
        adapting.

    metric : {"sqeuclidean", "cosine", "mahalanobis"}, default="sqeuclidean"
        As in `ProtoNetClassifier`; "mutual_information" needs "sqeuclidean". Read when
        adapting.

    temperature : float, default=None
        Divides the distances; None means 1 for "sqeuclidean", 0.1 for "cosine" and 2
        for "mahalanobis". The surer probabilities are, the less there is to refine.
        Read when adapting.

    covariance_floor : float, default=1.0
        Added to the diagonal of covariances, with "mahalanobis"; in squared units of
        the features. Read when adapting.

    learn_temperature : bool, default=False
        Learn in meta-training a factor that multiplies `temperature`.

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    ProtoNetClassifier : The same without refinement.

    Notes
    -----
    With a single query row "laplacian" changes nothing, and the others little. Times
    grow with the number of query rows, of "laplacian" with its square.

    References
    ----------
    .. [1] M. Ren et al., "Meta-Learning for Semi-Supervised Few-Shot Classification",
       ICLR 2018, arXiv:1803.00676.
    .. [2] I. Ziko, J. Dolz, E. Granger, I. Ben Ayed, "Laplacian Regularized Few-Shot
       Learning", ICML 2020, arXiv:2006.15486.
    .. [3] M. Boudiaf et al., "Transductive Information Maximization For Few-Shot
       Learning", NeurIPS 2020, arXiv:2008.11297.

    Examples
    --------
    >>> from sklmeta import TransductiveProtoNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = TransductiveProtoNetClassifier(max_iter=20, random_state=0)
    >>> adapted = meta.fit(pool[:5]).adapt(pool[5:].X[::40], pool[5:].y[::40])
    >>> adapted.predict_transductive(pool[5:].X[1::40]).shape
    (23,)
    """

    _adaptation_parameters = (  # type: ignore[assignment]
        *ProtoNetClassifier._adaptation_parameters,
        *("refinement", "n_refinement_steps", "laplacian_weight", "n_neighbors"),
        *("support_weight", "entropy_weight"),
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        refinement: str = "soft_kmeans",
        n_refinement_steps: int | None = None,
        laplacian_weight: float = 1.0,
        n_neighbors: int = 3,
        support_weight: float = 0.1,
        entropy_weight: float = 0.1,
        metric: str = "sqeuclidean",
        temperature: float | None = None,
        covariance_floor: float = 1.0,
        learn_temperature: bool = False,
        **common: Unpack[CommonParameters],
    ) -> None:
        super().__init__(
            backbone,
            metric=metric,
            temperature=temperature,
            covariance_floor=covariance_floor,
            learn_temperature=learn_temperature,
            **common,
        )
        self.refinement = refinement
        self.n_refinement_steps = n_refinement_steps
        self.laplacian_weight = laplacian_weight
        self.n_neighbors = n_neighbors
        self.support_weight = support_weight
        self.entropy_weight = entropy_weight

    def predict_transductive(self, X: ArrayLike) -> NDArray[Any]:
        """Predict rows of the task that was adapted to last, together.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            All query rows of that task.

        Returns
        -------
        ndarray of shape (n_query,)
            Labels.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        """
        return self._last_adapted().predict_transductive(X)

    def predict_proba_transductive(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict class probabilities for the task that was adapted to last, together.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            All query rows of that task.

        Returns
        -------
        ndarray of shape (n_query, n_classes)
            Columns in the order of ``adapted_.classes_``.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        """
        return self._last_adapted().predict_proba_transductive(X)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("refinement", self.refinement, tuple(N_STEPS))
        if self.n_refinement_steps is not None:
            check_integer("n_refinement_steps", self.n_refinement_steps, 0)
        check_integer("n_neighbors", self.n_neighbors, 1)
        for name in ("laplacian_weight", "support_weight", "entropy_weight"):
            check_not_negative(name, getattr(self, name))
        if self.refinement == "mutual_information" and self.metric != "sqeuclidean":
            raise ValueError(
                f"refinement='mutual_information' moves class means by squared "
                f"Euclidean distances, got metric={self.metric!r}. Use "
                "metric='sqeuclidean', or another refinement."
            )

    def _n_steps(self) -> int:
        steps = self.n_refinement_steps
        return N_STEPS[self.refinement] if steps is None else steps

    def _configured_learner(self) -> Learner:
        """Return the learner that predicts rows one by one."""
        learner = super()._configured_learner()
        return learner.with_options(n_refinement_steps=0)

    def _adapted_model(
        self, X: Any, y: NDArray[Any], classes: NDArray[Any] | None
    ) -> TorchModel:
        return TransductiveModel.of_support(self, X, y, classes)

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> TransductiveProtoNet:
        # Meta-trained without refinement: no steps.
        return TransductiveProtoNet(
            backbone,
            n_outputs,
            refinement=self.refinement,
            metric=self.metric,
            temperature=self.temperature,
            covariance_floor=self.covariance_floor,
            learn_temperature=self.learn_temperature,
        )
