r"""SimpleShot: nearest class mean on transformed features of a fixed backbone.

Features :math:`f` of rows are transformed, and a query row gets the class whose support
rows have the nearest mean, by Euclidean distance. The transformations of the paper's
section 2 are the identity, L2 normalisation, and centring before it:

.. math:: f \leftarrow \frac{f}{\lVert f \rVert_2}, \qquad
          f \leftarrow \frac{f - \bar f}{\lVert f - \bar f \rVert_2},

:math:`\bar f` being the mean feature of all rows of the meta-training tasks. It is all
that is learned here: the backbone was trained elsewhere, and stays as it is.

Deviations from the paper
-------------------------
- The paper trains its backbones as classifiers of all base classes; here it is given.
- The paper predicts classes only. Probabilities are a softmax of negative squared
  distances, as in prototypical networks.

References
----------
Wang, Chao, Weinberger and van der Maaten, "SimpleShot: Revisiting Nearest-Neighbor
Classification for Few-Shot Learning", arXiv:1911.04623.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from torch import Tensor, nn
from torch.nn import functional as F

from sklmeta import _leakage
from sklmeta._adapted import TorchModel
from sklmeta._meta_tags import MetaTags
from sklmeta._parameters import check_choice, filled_in, resolve_device
from sklmeta._preparation import Preparation, Settings
from sklmeta._row_episodes import scoring_spec
from sklmeta._scores import MeanAccuracy, PooledR2, score_tasks
from sklmeta._supports import predict_supports
from sklmeta._task_rows import representative
from sklmeta.backbones.build import build_backbone, feature_size
from sklmeta.backbones.normalization import mixes_rows
from sklmeta.base import BaseMetaLearner, MetaClassifierMixin
from sklmeta.engine.batches import Rows
from sklmeta.engine.inference import moved_to, on_cpu
from sklmeta.engine.learner import Learner, State
from sklmeta.metric._fixed_backbone import as_prepared_by, mean_feature
from sklmeta.metric.protonet import ProtoNet
from sklmeta.tasks import ClassPool, TaskSet, as_tasks

__all__ = ["SimpleShot", "SimpleShotClassifier"]

TRANSFORMS = ("none", "l2", "cl2")


class SimpleShot(ProtoNet):
    """Nearest class mean of transformed features, as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_outputs : int or None
        Number of classes (shared labels), None for local labels.
    transform : {"none", "l2", "cl2"}, default="cl2"
        What is done to features: nothing, L2 normalisation, or centring before it.
    centre : Tensor of shape (n_features,), default=None
        Mean feature that "cl2" takes off; None stands for 0.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.engine.batches import Rows
    >>> from sklmeta.metric import SimpleShot
    >>> x, y = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]]), torch.tensor([[0, 1]])
    >>> support = Rows(x, y, mask=torch.ones(1, 2).bool(), n_way=torch.tensor([2]))
    >>> learner = SimpleShot(torch.nn.Identity(), n_outputs=None, transform="l2")
    >>> learner.adapt(support)["prototypes"]
    tensor([[[0.6000, 0.8000],
             [0.0000, 1.0000]]])
    """

    adaptation_options = ("transform",)  # type: ignore[assignment]
    centre: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        n_outputs: int | None,
        *,
        transform: str = "cl2",
        centre: Tensor | None = None,
    ) -> None:
        super().__init__(backbone, n_outputs)
        self.transform = transform
        self.register_buffer("centre", torch.zeros(()) if centre is None else centre)

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Return the class means of each task's transformed features.

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows.
        support : Rows
            y (T, S), mask (T, S), n_way (T,) with local labels.

        Returns
        -------
        dict
            "prototypes" (T, N, n_features) and "ways" (T, N), True where a way has
            support rows.
        """
        return super().adapt_features(self._transformed(features), support)

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return logits: negative squared distances to the class means.

        Parameters
        ----------
        state : dict
            What `adapt_features` returned.
        features : Tensor of shape (T, Q, n_features)
            Of the query rows.

        Returns
        -------
        Tensor of shape (T, Q, N)
            -inf for ways without support rows.
        """
        return super().predict_features(state, self._transformed(features))

    def _transformed(self, features: Tensor) -> Tensor:
        if self.transform == "none":
            return features
        if self.transform == "cl2":
            features = features - self.centre
        return F.normalize(features, dim=-1)


SIMPLESHOT_PARAMETERS = """\
n_way : int, (int, int) or None, default=None
    Ways of the episodes of `score`, with local labels: a number, a range drawn per
    episode, or None for all classes of the task (5 for a `ClassPool`).

n_shot : int or (int, int), default=5
    Support rows of the episodes of `score`: per class with local labels, per task with
    shared labels.

support_order : {"random", "first"}, default="random"
    "first" takes the first `n_shot` rows of a task as support and only later rows as
    query, for data in time order.

small_tasks : {"shrink", "drop", "raise"}, default="shrink"
    What `score` does with tasks that have no query row left after `n_shot` support
    rows: use fewer support rows, leave the task out, or refuse.

image_shape : tuple of int, default=None
    (H, W) or (H, W, C): rows of `X` are flattened images of that shape. None takes that
    of a fitted meta-learner given as `backbone`.

device : str or torch.device, default="auto"
    Where to compute; "auto" is "cuda" where there is one, else "cpu".

random_state : int, RandomState instance or None, default=None
    Seed of what a callable given as `backbone` draws, and of the sample of a
    TaskDistribution. An int also seeds the episodes of `score`.
"""

with_own_parameters = partial(
    filled_in, texts={"<parameters of simpleshot>": SIMPLESHOT_PARAMETERS}
)


@with_own_parameters
class SimpleShotClassifier(MetaClassifierMixin, BaseMetaLearner):
    """Nearest class mean on transformed features of a fixed backbone.

    SimpleShot [1]_: the simplest use of features that were trained elsewhere, and hard
    to beat where these are good. `fit` trains nothing: one pass over the meta-training
    rows takes their mean feature, which is the same for every task.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, fitted meta-learner or "identity", \
default="identity"
        Where features come from: a torch module with the weights that it has, a
        function that returns one for the shape of a row ((n_features,), or (channels,
        height, width) for images), a fitted meta-learner that compares features, such
        as `ProtoNetClassifier`, or "identity" for rows that are features already. Rows
        pass a fitted meta-learner's backbone scaled as it scales them, and other
        modules as they are (uint8 images scaled to [0, 1]).

    transform : {"none", "l2", "cl2"}, default="cl2"
        What is done to features: nothing, L2 normalisation, or centring with the mean
        feature of the meta-training rows before it. Read when adapting.

    <parameters of simpleshot>

    Attributes
    ----------
    mean_feature_ : ndarray of shape (n_backbone_features,)
        Mean feature of the meta-training rows.

    n_features_in_ : int
        Number of features seen during `fit`.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features; only if `X` had string column names.

    adapted_ : few-shot estimator
        What the last `adapt` returned; `predict` uses it.

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    ProtoNetClassifier : Trains its backbone for nearest class means.
    PerTaskClassifier : Fits any scikit-learn classifier to support rows alone.

    Notes
    -----
    `sklearn.base.clone` keeps a fitted meta-learner that is given as `backbone`, and so
    do searches over other parameters; as a value that is searched over scikit-learn
    empties it. The backbone is copied in `fit`: fitting the meta-learner anew later
    changes nothing here.

    References
    ----------
    .. [1] Y. Wang, W.-L. Chao, K. Q. Weinberger, L. van der Maaten, "SimpleShot:
       Revisiting Nearest-Neighbor Classification for Few-Shot Learning",
       arXiv:1911.04623.

    Examples
    --------
    >>> from sklmeta import SimpleShotClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = SimpleShotClassifier().fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """

    _preparation: Preparation
    _learner: Learner
    mean_feature_: NDArray[np.float64]

    _adaptation_parameters = ("transform",)
    _exempt_parameters = (*BaseMetaLearner._exempt_parameters, "device")

    def __init__(
        self,
        backbone: Any = "identity",
        *,
        transform: str = "cl2",
        n_way: Any = None,
        n_shot: Any = 5,
        support_order: str = "random",
        small_tasks: str = "shrink",
        image_shape: Any = None,
        device: Any = "auto",
        random_state: Any = None,
    ) -> None:
        self.backbone = backbone
        self.transform = transform
        self.n_way = n_way
        self.n_shot = n_shot
        self.support_order = support_order
        self.small_tasks = small_tasks
        self.image_shape = image_shape
        self.device = device
        self.random_state = random_state

    def __sklmeta_tags__(self) -> MetaTags:
        """Say that only the centre of features is learned from tasks."""
        tags = super().__sklmeta_tags__()
        tags.learns_from_tasks = self.transform == "cl2"
        return tags

    def __sklearn_clone__(self) -> Self:
        copied = super().__sklearn_clone__()
        copied.backbone = self.backbone  # a fitted meta-learner keeps its weights
        return copied

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("transform", self.transform, TRANSFORMS)
        resolve_device(self.device)
        if self.backbone is None:
            raise TypeError(
                "SimpleShotClassifier trains no backbone, so that backbone=None, the "
                "untrained default net of other meta-learners, makes no sense. Give a "
                "module with weights, a fitted meta-learner, or 'identity'."
            )

    # Learning the mean feature ---------------------------------------------------

    def fit(
        self, X: Any, y: ArrayLike | None = None, *, groups: ArrayLike | None = None
    ) -> Self:
        """Take the mean feature of the rows of tasks.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form; rows of shape (n_samples, n_features) in long format. A
            TaskDistribution is sampled once, 200 tasks.
        y : array-like of shape (n_samples,), default=None
            Labels; long format only.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        NotFittedError
            If a meta-learner given as `backbone` is not fitted.
        TypeError, ValueError
            If tasks or parameters are not usable; the message names the task.
        """
        self._check_parameters()
        state = check_random_state(self.random_state)
        sample_seed, seed = state.randint(np.iinfo(np.int32).max, size=2).tolist()
        tasks = representative(as_tasks(X, y, groups), sample_seed)
        preparation, backbone = self._prepared(tasks, seed)
        scoring_spec(self, preparation)  # refuses wrong counts
        device = resolve_device(self.device)
        learner = SimpleShot(backbone, preparation.n_outputs, transform=self.transform)
        learner = learner.requires_grad_(False).eval().to(device)
        mean = mean_feature(learner, preparation.pool(tasks, device))
        learner.centre = mean.to(device, torch.float32)
        # Who learns nothing from tasks can be scored on them.
        learns = self.__sklmeta_tags__().learns_from_tasks
        self._keep_learned(preparation, _leakage.fingerprints(tasks) if learns else {})
        self._learner = learner
        self.mean_feature_ = mean.numpy()
        return self

    def _prepared(
        self, tasks: TaskSet | ClassPool, seed: int
    ) -> tuple[Preparation, nn.Module]:
        """Return how rows are prepared, and a backbone of our own for them."""
        given, shape = self.backbone, self.image_shape
        settings = Settings(
            type(self).__name__,
            classifies=True,
            image_shape=None if shape is None else tuple(shape),
            normalize_x=False,
        )
        if isinstance(given, BaseMetaLearner):
            return as_prepared_by(given, settings, tasks)
        preparation = Preparation.learn(settings, tasks)
        backbone = build_backbone(given, preparation.input_shape, seed=seed).eval()
        feature_size(backbone, preparation.input_shape)  # refuses what gives none
        if mixes_rows(backbone):
            raise ValueError(
                "The backbone has batch normalisation without running averages, so "
                "that features of a row would depend on the other rows. Use layers "
                "with track_running_stats=True."
            )
        return preparation, backbone

    # Adapting, predicting, judging -----------------------------------------------

    def _adapted_model(
        self, X: Any, y: NDArray[Any], classes: NDArray[Any] | None
    ) -> TorchModel:
        return TorchModel.of_support(self, X, y, classes)

    def _predict_supports(
        self, tasks: TaskSet, query_Xs: Sequence[ArrayLike]
    ) -> list[NDArray[Any]]:
        self._refuse_changed_parameters()
        return predict_supports(self, tasks, query_Xs)

    def _score_tasks(
        self, tasks: TaskSet | ClassPool, seed: int, total: MeanAccuracy | PooledR2
    ) -> None:
        self._refuse_changed_parameters()
        score_tasks(self, tasks, seed, total)

    def _configured_learner(self) -> Learner:
        """Return the learner with the transformation as it is now."""
        learner = moved_to(self._learner, resolve_device(self.device))
        return learner.with_options(transform=self.transform)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle: CPU tensors."""
        state = dict(super().__getstate__())
        if "_learner" in state:
            state["_learner"] = on_cpu(state["_learner"])
        return state
