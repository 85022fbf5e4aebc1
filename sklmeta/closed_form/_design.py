"""Columns of mixed models: which there are, which are random, and in which units."""

from __future__ import annotations

import numbers
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklmeta._parameters import shown
from sklmeta._preparation import Preparation, _mean_and_scale
from sklmeta.closed_form._likelihood import independent

__all__ = ["Design", "random_columns"]

Array = NDArray[np.float64]

# Means of as many standard deviations: an intercept far from all rows.
FAR_FROM_ZERO = 100.0
# Of the largest target: what spreads less is constant, but for rounding.
CONSTANT = 1e-12
# Of the spread of targets, inside of tasks: sums of squares lose smaller ones.
LEAST_WITHIN = 1e-6


@dataclass(frozen=True)
class Design:
    """How rows become columns of a mixed model, of which the first is the intercept.

    Attributes
    ----------
    x_mean, x_scale : ndarray of shape (F,)
        What features are centred and scaled by, whether users ask for it or not: sums
        of squares of features far from zero would lose what differs between rows.
    columns : ndarray of shape (p,)
        Which of intercept and features, 0 to F, have a coefficient.
    effects : ndarray of shape (q,)
        Which of these columns have random coefficients.
    random : ndarray of int
        Which of intercept and features were to have them.
    y_mean, y_scale : ndarray of shape (n_outputs,)
        What targets are centred and scaled by; of no length with labels. Their scale is
        that inside of tasks, where levels differ much more between them.
    flat_y : bool
    """

    x_mean: Array
    x_scale: Array
    columns: NDArray[np.int64]
    effects: NDArray[np.int64]
    random: NDArray[np.int64]
    y_mean: Array
    y_scale: Array
    flat_y: bool

    @classmethod
    def learn(
        cls, preparation: Preparation, X: NDArray[Any], random: Any, *, drop: bool
    ) -> Design:
        """Leave out constant columns and, with `drop`, those that others determine."""
        n_features = X.shape[1]
        mean, scale = preparation.x_mean, preparation.x_scale
        if mean is None or scale is None:
            mean, scale = _mean_and_scale(np.asarray(X, dtype=np.float64), "X")
        y_mean, y_scale = preparation.y_mean, preparation.y_scale
        if y_mean is None or y_scale is None:
            y_mean, y_scale = np.zeros(0), np.ones(0)
        everything = np.arange(n_features + 1)
        parts = (everything, everything, random, y_mean, y_scale, preparation.flat_y)
        rows = cls(mean, scale, *parts).rows(X)
        columns = independent(rows, constant_only=not drop)
        effects = np.flatnonzero(np.isin(columns, random))
        return cls(mean, scale, columns, effects, *parts[2:])

    def scaled_within(self, y: Array, offsets: NDArray[np.int64]) -> Design:
        """Return a design that scales targets (N, n_outputs) as they spread in tasks.

        The least noise is a share of it, and levels may differ as they like.
        """
        sizes = np.diff(offsets)
        if len(y) <= len(sizes):
            return self
        scaled = self.scaled(y)
        means = np.add.reduceat(scaled, offsets[:-1]) / sizes[:, None]
        squares = (scaled - np.repeat(means, sizes, axis=0)) ** 2
        spread = np.sqrt(squares.sum(0) / (len(y) - len(sizes)))
        level = np.abs(scaled).max(0) + np.abs(self.y_mean / self.y_scale)
        spread = np.where(spread > CONSTANT * level, spread, 1.0)
        factor = np.clip(spread, LEAST_WITHIN, 1.0)
        return replace(self, y_scale=self.y_scale * factor)

    def rows(self, X: NDArray[Any]) -> Array:
        """Return the columns (R, p) of checked rows."""
        scaled = (np.asarray(X, dtype=np.float64) - self.x_mean) / self.x_scale
        joined = np.concatenate([np.ones((len(scaled), 1)), scaled], axis=1)
        if len(self.columns) == joined.shape[1]:
            return joined
        return np.ascontiguousarray(joined[:, self.columns])

    # Targets ---------------------------------------------------------------------

    def scaled(self, y: Array) -> Array:
        """Return targets (R, n_outputs) of mean 0, scaled."""
        return (y - self.y_mean) / self.y_scale

    def targets(self, outputs: Array) -> Array:
        """Return outputs (..., n_outputs) as targets."""
        y = outputs * self.y_scale + self.y_mean
        return y[..., 0] if self.flat_y else y

    def spreads(self, std: Array) -> Array:
        """Return standard deviations (..., n_outputs) as those of targets."""
        std = std * self.y_scale
        return std[..., 0] if self.flat_y else std

    # Units -----------------------------------------------------------------------

    def penalty(self, alpha: float, preparation: Preparation) -> Array:
        """Return the ridge penalty (p,) of each column; none of the intercept.

        It is `alpha` for scaled features, or for features as they are where these are
        not to be scaled.
        """
        scale = np.ones_like(self.x_scale)
        if preparation.x_scale is None:
            scale = self.x_scale
        return np.append(0.0, alpha / scale / scale)[self.columns]

    def basis(self, preparation: Preparation) -> Array:
        """Return B (q, q): diagonal covariances of random coefficients are B D B'.

        They are those of scaled features, for which B is the identity, or of features
        as they are where these are not to be scaled, whose intercept is not that of
        the mean features. Columns of B are of about length 1.
        """
        basis = np.eye(len(self.effects))
        if preparation.x_scale is None:
            places = self.columns[self.effects[1:]] - 1
            basis[0, 1:] = self.x_mean[places] / self.x_scale[places]
        return basis / np.sqrt((basis**2).sum(0))

    def far_from_zero(self, preparation: Preparation) -> list[Any]:
        """Return names of unscaled random features whose mean is far from zero."""
        if preparation.x_scale is not None:
            return []
        ratios = np.append(0.0, np.abs(self.x_mean) / self.x_scale)
        far = np.isin(self.random, self.columns[self.effects])
        far &= ratios[self.random] > FAR_FROM_ZERO
        names = self.effect_names(preparation)
        return [name for name, is_far in zip(names, far, strict=True) if is_far]

    def unscaled(self, coefficients: Array) -> Array:
        """Return coefficients (..., p) of columns as (..., F + 1) of raw features."""
        full = np.zeros((*coefficients.shape[:-1], len(self.x_mean) + 1))
        full[..., self.columns] = coefficients
        full[..., 1:] /= self.x_scale
        full[..., 0] -= full[..., 1:] @ self.x_mean
        return full

    def unscaled_effects(self, coefficients: Array) -> Array:
        """Return random coefficients (..., q) as those of raw features."""
        full = np.zeros((*coefficients.shape[:-1], len(self.columns)))
        full[..., self.effects] = coefficients
        return self.unscaled(full)[..., self.random]

    def unscaled_covariance(self, factor: Array, basis: Array | None = None) -> Array:
        """Return L L' of raw features for factors L (..., q, q).

        With `basis`, factors are B D of a diagonal D.
        """
        rows = self.unscaled_effects(factor.swapaxes(-1, -2))
        if basis is not None and basis[0, 1:].any():
            # Diagonal, but for rounding.
            known = np.isin(self.random, self.columns[self.effects])
            places = np.flatnonzero(known)
            kept = np.zeros_like(rows)
            order = np.arange(len(places))
            kept[..., order, places] = rows[..., order, places]
            rows = kept
        return rows.swapaxes(-1, -2) @ rows

    def effect_names(self, preparation: Preparation) -> list[Any]:
        """Return what random coefficients are called."""
        names = preparation.feature_names
        features = range(len(self.x_mean)) if names is None else names.tolist()
        known = ["intercept", *features]
        return [known[place] for place in self.random]

    @property
    def log_volume(self) -> float:
        """Logarithm of what scaling divides the volume of features by."""
        return float(np.log(self.x_scale[self.columns[self.columns > 0] - 1]).sum())


def random_columns(random_effects: Any, preparation: Preparation) -> NDArray[np.int64]:
    """Return which of intercept and features, 0 to F, have random coefficients.

    Raises
    ------
    TypeError, ValueError
        If there are no such features.
    """
    n_features = preparation.n_features_in
    if isinstance(random_effects, str):
        if random_effects == "all":
            return np.arange(n_features + 1)
        if random_effects == "intercept":
            return np.zeros(1, dtype=np.int64)
    if isinstance(random_effects, str) or not hasattr(random_effects, "__len__"):
        raise ValueError(
            "random_effects must be 'all', 'intercept' or a list of features, got "
            f"{shown(random_effects)}."
        )
    names = preparation.feature_names
    listed = [  # the intercept always differs, and may be listed too
        feature
        for feature in random_effects
        if not (
            isinstance(feature, str)
            and feature == "intercept"
            and (names is None or feature not in names)
        )
    ]
    places = [_place(feature, preparation) for feature in listed]
    return np.unique([0, *(place + 1 for place in places)])


def _place(feature: Any, preparation: Preparation) -> int:
    """Return the position of a feature that is given by name or position."""
    n_features, names = preparation.n_features_in, preparation.feature_names
    if isinstance(feature, str):
        known = [] if names is None else names.tolist()
        if feature in known:
            return known.index(feature)
        if not known:
            raise ValueError(
                f"random_effects holds {feature!r}, but the tasks' X has no names. "
                "List positions, or keep the names: a scikit-learn transformer before "
                "this one does after set_output(transform='pandas')."
            )
        near = get_close_matches(feature, known, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"random_effects holds {feature!r}, but the tasks have {known}.{meant}"
        )
    if isinstance(feature, (bool, np.bool_)) or not isinstance(
        feature, numbers.Integral
    ):
        raise TypeError(
            "random_effects must list names or positions of features, got "
            f"{shown(feature)}."
        )
    if not 0 <= int(feature) < n_features:
        raise ValueError(
            f"random_effects holds {feature!r}, but the tasks have {n_features} "
            f"features, 0 to {n_features - 1}."
        )
    return int(feature)
