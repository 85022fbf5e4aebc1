r"""Deep kernel transfer: one Gaussian process for each task, on meta-learned features.

With the features :math:`z = f_\theta(x)` of a backbone, a kernel :math:`k_\phi` and a
prior mean :math:`m`, the targets of a task's rows have the density

.. math:: y \sim \mathcal N(m, C), \qquad
   C_{ij} = k_\phi(z_i, z_j) + \sigma^2 [i = j]. \qquad (1)

Meta-training maximises it over weights, kernel, mean and noise together, with all rows
of an episode, support and query: a step of the inner loop is integrated out instead of
taken. The loss of a task of n rows is

.. math:: -\tfrac1n \log p(y \mid x) = \tfrac1{2n} \left( (y - m)^\top C^{-1} (y - m)
          + \log |C| + n \log 2 \pi \right). \qquad (2)

Adapting conditions (1) on the support rows: with their covariance C, query rows have

.. math:: \mu_* = m + k_*^\top C^{-1} (y - m), \qquad
   s_*^2 = k_{**} - k_*^\top C^{-1} k_* + \sigma^2. \qquad (3)

Labels are regressed one against the rest: of way n, the code :math:`y_n` of a row is 1
if it is of that way, else -1. All ways share C, so that its factor is made once. Query
rows get the logits

.. math:: 2 \mu_{*n} / s_*^2, \qquad (4)

which is what (3) says of the codes: the log density of way n's code differs from that
of another way's by their difference.

Deviations from the paper
-------------------------
- In classification, the paper learns a kernel of its own for each way, and predicts the
  way of the largest sigmoid of the mean. Ways mean nothing across tasks here, so they
  share kernel and noise, and (4) uses the variance too; the prior mean is that of the
  codes of N equally frequent ways, :math:`2 / N - 1`, plus a learned constant. The
  largest mean has the largest probability, as in the paper.
- Several targets share kernel and noise; each has a constant mean of its own.
- The paper's code makes the spectral mixture kernel a product over features of sums
  over mixtures; here it is a sum over mixtures, as in `sklmeta.closed_form._kernels`.
- ``objective="predictive"`` maximises the density of the query rows given the support
  instead of (2). For labels that is the cross-entropy of (4).
- A regressor as prior mean, `mean=`, is not in the paper.
- Cosine similarity goes without the batch normalisation that the paper's best kernel
  has before it; a backbone can end in one.
- Covariances and factors are computed in double precision, where the device has it.
  Where rounding makes a covariance indefinite, up to 1e-4 of its mean diagonal is added
  to the diagonal.

References
----------
Patacchiola, Turner, Crowley, O'Boyle and Storkey, "Bayesian meta-learning for the
few-shot setting via deep kernels", NeurIPS 2020, arXiv:1910.05199.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Self, TypeVar, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import is_regressor
from torch import nn

from sklmeta import _meta_training
from sklmeta._parameters import (
    check_choice,
    check_integer,
    check_positive,
    filled_in,
    shown,
    with_common_parameters,
)
from sklmeta._preparation import Preparation
from sklmeta._probabilistic import (
    ProbabilisticMetaLearner,
    ProbabilisticParameters,
    ProbabilisticRegressorMixin,
)
from sklmeta.backbones.build import call_seeded
from sklmeta.base import MetaClassifierMixin
from sklmeta.closed_form._deep_kernel_learner import DeepKernel, IndefiniteCovariance
from sklmeta.closed_form._gpytorch_kernel import GPyTorchKernel, is_gpytorch_kernel
from sklmeta.closed_form._kernels import KERNELS, Kernel, check_shapes, make_kernel
from sklmeta.closed_form._mean_functions import BesideMeans, MeanPreparation
from sklmeta.exceptions import MetaTrainingError
from sklmeta.tasks import TaskSet, as_tasks

__all__ = ["DeepKernel", "DeepKernelClassifier", "DeepKernelRegressor", "make_kernel"]

NAMES = (*KERNELS, "cosine", "spectral")
OBJECTIVES = ("marginal", "predictive")

DEEP_KERNEL_PARAMETERS = """\
kernel : {"rbf", "matern12", "matern32", "matern52", "linear", "cosine", "spectral"} \
or callable, default="rbf"
    Covariance of the function at two rows, given their features; or a function that
    takes the number of features and returns a torch module as `DeepKernel` describes,
    or a kernel of GPyTorch (`pip install sklmeta[gp]`)::

        def smooth_and_periodic(n_features):
            smooth = gpytorch.kernels.RBFKernel(ard_num_dims=n_features)
            return gpytorch.kernels.ScaleKernel(
                smooth * gpytorch.kernels.PeriodicKernel()
            )

    What such a function returns starts from values of its own: `length_scale`, `ard`,
    `n_mixtures` and `output_scale` are for kernels with a name.

length_scale : float, default=None
    What features are divided by ("spectral": a tenth of the shortest waves, about),
    from which learning starts. None is the root of the number of features.

ard : bool, default=False
    Learn a length scale for each feature (automatic relevance determination).

n_mixtures : int, default=4
    Normal densities in the spectrum of "spectral".

output_scale : float, default=1.0
    Variance of the function, from which learning starts.

noise : float, default=0.1
    Variance of the noise, from which learning starts.

objective : {"marginal", "predictive"}, default="marginal"
    What meta-training maximises: the density of all rows of an episode, support and
    query, as the paper does; or that of the query rows given the support.
"""

Class = TypeVar("Class", bound=type)


def _with_deep_kernel_parameters(cls: Class) -> Class:
    texts = {"<deep kernel parameters>": DEEP_KERNEL_PARAMETERS}
    return with_common_parameters(filled_in(cls, texts))


class _DeepKernelEstimator(ProbabilisticMetaLearner):
    """What the two faces of DeepKernel share."""

    mean: Any = None

    _structural_parameters = (
        *ProbabilisticMetaLearner._structural_parameters,
        *("kernel", "length_scale", "ard", "n_mixtures", "output_scale", "noise"),
        *("objective", "mean"),
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        kernel: Any = "rbf",
        length_scale: float | None = None,
        ard: bool = False,
        n_mixtures: int = 4,
        output_scale: float = 1.0,
        noise: float = 0.1,
        objective: str = "marginal",
        **common: Unpack[ProbabilisticParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.kernel = kernel
        self.length_scale = length_scale
        self.ard = ard
        self.n_mixtures = n_mixtures
        self.output_scale = output_scale
        self.noise = noise
        self.objective = objective

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if isinstance(self.kernel, nn.Module):
            raise TypeError(
                f"kernel must be a name or a function, got {shown(self.kernel)}, which "
                "is a module. Pass a function that returns it, `lambda n_features: "
                "...`; for pickling, a named one."
            )
        if not callable(self.kernel):
            check_choice("kernel", self.kernel, NAMES)
        if self.length_scale is not None:
            check_positive("length_scale", self.length_scale)
        check_choice("ard", self.ard, (True, False))
        check_integer("n_mixtures", self.n_mixtures, 1)
        check_positive("output_scale", self.output_scale)
        check_positive("noise", self.noise)
        check_choice("objective", self.objective, OBJECTIVES)

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> DeepKernel:
        return DeepKernel(
            backbone,
            self._make_kernel(n_features, generator),
            n_outputs,
            task_type="classification" if self._classifies else "regression",
            noise=self.noise,
            objective=self.objective,
        )

    def _make_kernel(
        self, n_features: int, generator: torch.Generator
    ) -> Kernel | nn.Module:
        if not isinstance(self.kernel, str):
            seed = generator.initial_seed()
            return call_seeded(self._kernel_of_user, n_features, seed=seed)
        return make_kernel(
            self.kernel,
            n_features,
            length_scale=self.length_scale,
            output_scale=self.output_scale,
            ard=self.ard,
            n_mixtures=self.n_mixtures,
            generator=generator,
        )

    def _kernel_of_user(self, n_features: int) -> nn.Module:
        """Return what the function given as kernel does, checked."""
        try:
            made = self.kernel(n_features)
        except Exception as error:
            raise ValueError(
                "The callable given as kernel fails on the number of features, "
                f"{n_features}, which it is called with and is to return a kernel "
                "for, as lambda n_features: gpytorch.kernels.RBFKernel() does. It "
                f"raises {type(error).__name__}: {error}"
            ) from error
        if is_gpytorch_kernel(made):
            made = GPyTorchKernel(made)
        elif not (isinstance(made, nn.Module) and hasattr(made, "diagonal")):
            raise TypeError(
                "kernel must return a torch module that has diagonal(a), or a kernel "
                f"of GPyTorch; got {shown(made)}."
            )
        check_shapes(made, n_features)
        return made

    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        validation_tasks: Any = None,
    ) -> Self:
        """Meta-train on tasks.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form; rows of shape (n_samples, n_features) in long format.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; long format only.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.
        validation_tasks : tasks in any form, default=None
            Held-out tasks for early stopping. Wrap them as `ValidationTasks(tasks)`
            inside scikit-learn's searches.

        Returns
        -------
        self : object
            The meta-trained estimator.

        Raises
        ------
        ValueError
            If tasks or parameters are not usable; the message names the task.
        MetaTrainingError
            If the meta-loss stops being finite, or a covariance positive definite.
            What was learned before is kept.
        """
        goes_on = self.warm_start and hasattr(self, "learner_")
        try:
            return super().fit(X, y, groups=groups, validation_tasks=validation_tasks)
        except IndefiniteCovariance as error:
            tasks = as_tasks(X, y, groups)
            raise self._named(error, tasks, goes_on) from None

    def partial_fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Meta-train for one pass over the given tasks, going on from the last call.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form, as in `fit`; a TaskDistribution gives one meta-update.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; long format only.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.
        classes : array-like of shape (n_classes,), default=None
            All shared labels that later calls can hold; read on the first call.

        Returns
        -------
        self : object
            The meta-trained estimator.

        Raises
        ------
        ValueError
            If tasks or parameters are not usable; the message names the task.
        MetaTrainingError
            If the meta-loss stops being finite, or a covariance positive definite.
            What was learned before is kept.
        """
        goes_on = hasattr(self, "learner_")
        try:
            return super().partial_fit(X, y, groups=groups, classes=classes)
        except IndefiniteCovariance as error:
            tasks = as_tasks(X, y, groups)
            raise self._named(error, tasks, goes_on) from None

    def _named(
        self, error: IndefiniteCovariance, tasks: Any, goes_on: bool
    ) -> MetaTrainingError:
        """Return the error that names the task of a row."""
        where = "a task"
        if isinstance(tasks, TaskSet):
            prepared = (
                self._preparation
                if goes_on
                else _meta_training.learn_preparation(self, tasks)
            )
            pool = prepared.pool(tasks, torch.device("cpu"))
            # Means that may stand behind the features are those of other folds.
            width = math.prod(prepared.row_shape)
            row = error.row.flatten()[:width]
            same = (pool.x.flatten(1)[:, :width] == row).all(1)
            if same.any():
                place = int(same.int().argmax())
                task = np.searchsorted(pool.offsets[1:].numpy(), place, side="right")
                where = f"task {pool.names[task]!r}"
        return MetaTrainingError(
            f"The covariance of {where} is not positive definite in meta-training, "
            "though 1e-4 of its mean was added to the diagonal. Lower outer_lr (now "
            f"{self.outer_lr!r}), start from more noise (now {self.noise!r}), or take "
            "another kernel."
        )


@_with_deep_kernel_parameters
class DeepKernelClassifier(MetaClassifierMixin, _DeepKernelEstimator):
    """Classifier by Gaussian processes on meta-learned features.

    Deep kernel transfer [1]_: adapting to a task regresses its labels, one way against
    the rest, by a Gaussian process on the features of its support rows, in closed form.
    Meta-training learns features and kernel by the density of all labels of a task.
    Any number of ways.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or a
        four-block convolution net (images).

    <deep kernel parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    DeepKernelRegressor : The same for numbers.
    RidgeNetClassifier : Ridge regression on learned features: the linear kernel, with
        the query's cross-entropy as its loss.
    ProtoNetClassifier : Compares with class means instead.

    Notes
    -----
    Adapting takes time cubic in the support rows of the task, and memory quadratic in
    them.

    Probabilities can be far too sure of classes unlike those of meta-training where
    these are few, a handful of digits, say. With more classes, ``calibrate=True`` holds
    some out and divides logits by a temperature; judge it by
    ``evaluate(..., metric=["log_loss", "ece"])``.

    References
    ----------
    .. [1] M. Patacchiola, J. Turner, E. J. Crowley, M. O'Boyle, A. Storkey, "Bayesian
       meta-learning for the few-shot setting via deep kernels", NeurIPS 2020,
       arXiv:1910.05199.

    Examples
    --------
    >>> from sklmeta import DeepKernelClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = DeepKernelClassifier(max_iter=20, random_state=0).fit(pool[:5])
    >>> new = pool[5:]
    >>> adapted = meta.adapt(new.X[::20], new.y[::20])
    >>> adapted.predict_proba(new.X[1:4]).shape
    (3, 5)
    """


@_with_deep_kernel_parameters
class DeepKernelRegressor(ProbabilisticRegressorMixin, _DeepKernelEstimator):
    """Regressor by Gaussian processes on meta-learned features.

    Deep kernel transfer [1]_: adapting to a task conditions a Gaussian process on its
    support rows, in closed form. The kernel is one of features that meta-training
    learns, together with its parameters, by the density of all targets of a task.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or a
        four-block convolution net (images).

    mean : regressor or None, default=None
        Prior mean of the targets given a row: any scikit-learn regressor, fitted on
        the rows of all meta-training tasks. The process is meta-trained on residuals
        of predictions out of fold: of regressors fitted on four fifths of the tasks
        for those of the last fifth. None is a learned constant.

    <deep kernel parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    DeepKernelClassifier : The same for labels.
    BayesianLinearNetRegressor : Bayesian linear regression on learned features, whose
        cost grows with the support rows themselves.
    sklearn.gaussian_process.GaussianProcessRegressor : One task, and a kernel of rows.

    Notes
    -----
    Adapting takes time cubic in the support rows of the task, and memory quadratic in
    them. With ``backbone="identity"`` meta-training learns the parameters of a common
    kernel of rows.

    References
    ----------
    .. [1] M. Patacchiola, J. Turner, E. J. Crowley, M. O'Boyle, A. Storkey, "Bayesian
       meta-learning for the few-shot setting via deep kernels", NeurIPS 2020,
       arXiv:1910.05199.

    Examples
    --------
    >>> from sklmeta import DeepKernelRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(60, random_state=0)
    >>> meta = DeepKernelRegressor(max_iter=50, random_state=0).fit(tasks[:50])
    >>> new = tasks[50]
    >>> mean, std = meta.adapt(new.X[:5], new.y[:5]).predict(new.X[5:], return_std=True)
    >>> mean.shape, std.shape
    ((15,), (15,))
    """

    def __init__(
        self,
        backbone: Any = None,
        *,
        mean: Any = None,
        **common: Any,
    ) -> None:
        super().__init__(backbone, **common)
        self.mean = mean

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.mean is None:
            return
        if not (hasattr(self.mean, "get_params") and is_regressor(self.mean)):
            raise TypeError(
                "mean must be a scikit-learn regressor, such as "
                f"HistGradientBoostingRegressor(), or None; got {shown(self.mean)}."
            )
        if self.normalize_y == "task":
            raise ValueError(
                "mean= predicts targets in units of all tasks, and normalize_y='task' "
                "puts them in units of each. Use normalize_y=True with mean."
            )

    def _prepared(
        self, tasks: Any, classes: Any, seeds: Any, goes_on: bool
    ) -> tuple[Preparation, Any]:
        """Return preparation and learner; with `mean`, its predictions beside rows."""
        preparation, learner = super()._prepared(tasks, classes, seeds, goes_on)
        if self.mean is None:
            return preparation, learner
        if isinstance(preparation, MeanPreparation):
            return replace(preparation, out_of_fold=True), learner
        if len(preparation.row_shape) != 1 or preparation.is_image:
            raise ValueError(
                "mean= is for rows of numbers; got rows of shape "
                f"{preparation.row_shape}. Use mean=None."
            )
        preparation = MeanPreparation.beside(
            preparation, self.mean, tasks, seeds.held_out
        )
        learner.n_means = preparation.n_outputs
        learner.backbone = BesideMeans(learner.backbone, learner.n_means)
        return preparation, learner

    def _install(self, preparation: Preparation, *fitted: Any) -> Self:
        """Set the fitted attributes; new tasks get the mean that all are fitted on."""
        if isinstance(preparation, MeanPreparation):
            preparation = replace(preparation, out_of_fold=False)
        return super()._install(preparation, *fitted)
