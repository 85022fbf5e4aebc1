"""The methods of `grouped.py`: an estimator and the grid that it is searched over.

Grids are short, since every candidate is meta-trained for each fold of each division.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.preprocessing import QuantileTransformer, StandardScaler

import sklmeta
from sklmeta import make_meta_pipeline

Method = tuple[Any, dict[str, list[Any]]]
PENALTIES = [0.1, 1.0, 10.0, 100.0]


def _per_task(split: int) -> Method:
    meta = make_meta_pipeline(StandardScaler(), sklmeta.PerTaskRegressor(Ridge()))
    return meta, {"pertaskregressor__estimator__alpha": [0.03, 0.1, 0.3, 1.0, 3.0, 10]}


def _per_task_time(split: int) -> Method:
    only_time = make_column_transformer((StandardScaler(), ["test_time"]))
    meta = make_meta_pipeline(only_time, sklmeta.PerTaskRegressor(Ridge()))
    return meta, {"pertaskregressor__estimator__alpha": [0.01, 0.03, 0.1, 0.3, 1.0]}


def _pooled(split: int) -> Method:
    meta = make_meta_pipeline(StandardScaler(), sklmeta.PooledRegressor(Ridge()))
    return meta, {"pooledregressor__estimator__alpha": PENALTIES}


def _boosting(split: int) -> Method:
    boosting = HistGradientBoostingRegressor(random_state=0)
    return sklmeta.PooledRegressor(boosting), {
        "estimator__learning_rate": [0.02, 0.05, 0.1]
    }


def _offset(split: int) -> Method:
    meta = sklmeta.HierarchicalLinearRegressor(random_effects="intercept")
    return meta, {"alpha": PENALTIES}


def _mixed(split: int) -> Method:
    grid = {"covariance": ["diagonal", "full"], "alpha": [0.0, 1.0, 10.0, 100.0]}
    return sklmeta.HierarchicalLinearRegressor(), grid


def _common(split: int, **more: Any) -> dict[str, Any]:
    """Return what all nets have in common."""
    common = {"n_shot": (5, 10), "random_state": split, "device": "cpu"}
    return {**common, **more}


def _quantiles(meta: Any) -> Any:
    """Put features on a normal scale first: gradient steps go astray on long tails."""
    scaler = QuantileTransformer(
        n_quantiles=200, output_distribution="normal", random_state=0
    )
    return make_meta_pipeline(scaler, meta)


def _ridge_net(split: int) -> Method:
    meta = sklmeta.RidgeNetRegressor(**_common(split, outer_lr=3e-3))
    return meta, {"max_iter": [500, 1500], "alpha": [0.3, 3.0]}


def _alpaca(split: int) -> Method:
    meta = sklmeta.BayesianLinearNetRegressor(**_common(split, max_iter=1500))
    return meta, {"noise": [0.01, 0.1], "outer_lr": [1e-3, 3e-3]}


def _deep_kernel(split: int) -> Method:
    meta = sklmeta.DeepKernelRegressor(**_common(split, n_query=20))
    return meta, {"max_iter": [500, 1500], "outer_lr": [1e-3, 3e-3]}


def _kernel(split: int) -> Method:
    meta = sklmeta.DeepKernelRegressor(
        "identity", **_common(split, ard=True, outer_lr=3e-2)
    )
    return meta, {"kernel": ["rbf", "matern32"], "max_iter": [300]}


def _boosted_kernel(split: int) -> Method:
    boosting = HistGradientBoostingRegressor(learning_rate=0.05, random_state=0)
    options = _common(split, mean=boosting, ard=True, outer_lr=3e-2, max_iter=300)
    return sklmeta.DeepKernelRegressor("identity", **options), {}


def _inner(name: str, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {f"{name}__{key}": values for key, values in grid.items()}


def _maml(split: int) -> Method:
    meta = sklmeta.MAMLRegressor(**_common(split, normalize_y="task"))
    return _quantiles(meta), _inner("mamlregressor", {"inner_lr": [0.02, 0.05, 0.1]})


def _anil(split: int) -> Method:
    meta = sklmeta.ANILRegressor(**_common(split, normalize_y="task"))
    return _quantiles(meta), _inner("anilregressor", {"inner_lr": [0.02, 0.05, 0.1]})


def _meta_sgd(split: int) -> Method:
    meta = sklmeta.MetaSGDRegressor(**_common(split, normalize_y="task"))
    return _quantiles(meta), _inner("metasgdregressor", {"outer_lr": [1e-3, 3e-3]})


def _reptile(split: int) -> Method:
    meta = sklmeta.ReptileRegressor(**_common(split, normalize_y="task"))
    return _quantiles(meta), _inner("reptileregressor", {"inner_lr": [1e-3, 1e-2]})


def _cavia(split: int) -> Method:
    meta = sklmeta.CAVIARegressor(**_common(split, normalize_y="task"))
    return _quantiles(meta), _inner("caviaregressor", {"inner_lr": [0.1, 1.0]})


def _fine_tuning(split: int) -> Method:
    meta = sklmeta.FineTuneRegressor(**_common(split, normalize_y="task"))
    grid = {"max_iter": [500, 1500], "weight_decay": [0.0, 1.0]}
    return _quantiles(meta), _inner("finetuneregressor", grid)


def _lstm(split: int) -> Method:
    meta = sklmeta.RecurrentNetRegressor(**_common(split, hidden_size=64))
    return meta, {"max_iter": [500, 1500]}


def _probabilistic_maml(split: int) -> Method:
    meta = sklmeta.ProbabilisticMAMLRegressor(**_common(split, normalize_y="task"))
    grid = {"inner_lr": [0.02, 0.05]}
    return _quantiles(meta), _inner("probabilisticmamlregressor", grid)


def _amortised(split: int) -> Method:
    meta = sklmeta.ABMLRegressor(**_common(split, normalize_y="task"))
    return _quantiles(meta), {}


def _implicit_maml(split: int) -> Method:
    meta = sklmeta.ImplicitMAMLRegressor(**_common(split, normalize_y="task"))
    grid = {"inner_lr": [0.005, 0.01]}  # at its default, 0.02, one division diverged
    return _quantiles(meta), _inner("implicitmamlregressor", grid)


def _mann(split: int) -> Method:
    return sklmeta.MANNRegressor(**_common(split)), {}


def _neural_process(**options: bool) -> Callable[[int], Method]:
    def method(split: int) -> Method:
        meta = sklmeta.NeuralProcessRegressor(**options, **_common(split))
        return meta, {"max_iter": [500, 1500]}

    return method


def _in_context(split: int) -> Method:
    return sklmeta.InContextRegressor(**_common(split)), {"max_iter": [500, 1500]}


METHODS: dict[str, Callable[[int], Method]] = {
    "ridge per task": _per_task,
    "ridge per task, on time alone": _per_task_time,
    "pooled ridge": _pooled,
    "pooled gradient boosting": _boosting,
    "task offsets (mixed model)": _offset,
    "linear mixed model": _mixed,
    "Gaussian process": _kernel,
    "gradient boosting + Gaussian process": _boosted_kernel,
    "deep kernel": _deep_kernel,
    "ALPaCA": _alpaca,
    "R2-D2": _ridge_net,
    "MAML": _maml,
    "ANIL": _anil,
    "Meta-SGD": _meta_sgd,
    "Reptile": _reptile,
    "CAVIA": _cavia,
    "fine-tuning": _fine_tuning,
    "LSTM": _lstm,
    "probabilistic MAML": _probabilistic_maml,
    "ABML": _amortised,
    "implicit MAML": _implicit_maml,
    "MANN": _mann,
    "neural process": _neural_process(attention=False),
    "latent neural process": _neural_process(attention=False, latent=True),
    "attentive neural process": _neural_process(attention=True),
    "in-context (TNP-D)": _in_context,
}
NEEDS = {"ridge per task, on time alone": "test_time"}
SHORT_NAMES = {
    name: re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") for name in METHODS
}
