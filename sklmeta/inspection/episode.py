"""One episode of images: what was shown, and what was predicted of the others."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import is_classifier

from sklmeta.inspection._estimators import adapted, last_step
from sklmeta.inspection._plotting import COLORS, new_axes
from sklmeta.inspection._rows import episode_rows
from sklmeta.model_selection._judging import draw_for
from sklmeta.model_selection._protocol import EpisodeProtocol
from sklmeta.tasks import as_tasks

__all__ = ["EpisodeDisplay"]

GAP = 0.25  # between support and query images, in widths of an image
LABEL = 0.36  # height of a predicted label, in heights of an image
PAD = 0.03  # left and right of each image, in its widths
LONGEST_LABEL, LONGEST_NAME = 9, 24  # characters, below an image and beside a row
IMAGE_SIZE = 0.75  # inches
MARGIN, LETTER = 0.7, 0.09  # inches
SMALLEST, LARGEST = 4.0, 11.0  # inches
RIGHT, WRONG = "#555555", COLORS[1]


class EpisodeDisplay:
    """Support and query images of one episode, with the labels predicted.

    A row of images for each class: its support images, then its query images with the
    predicted label below each. Wrong ones are framed, and their labels bold. Make it
    with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    support_images : ndarray of shape (n_support, height, width[, channels])
        Images adapted to; grey, RGB or RGBA, as uint8 or as numbers.
    y_support : ndarray of shape (n_support,)
        Their labels.
    query_images : ndarray of shape (n_query, height, width[, channels])
        Images predicted.
    y_query : ndarray of shape (n_query,)
        Their true labels.
    y_pred : ndarray of shape (n_query,)
        Their predicted labels.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of `ax_`.
    support_artists_ : list of matplotlib AxesImage
        The support images, in the order of `y_support`.
    query_artists_ : list of matplotlib AxesImage
        The query images, in the order of `y_query`.
    label_texts_ : list of matplotlib Text
        The predicted labels, in the order of `y_query`.
    frames_ : list of matplotlib Rectangle
        Around wrongly predicted images.

    See Also
    --------
    AdaptationDisplay : A regression task of one feature, before and after adapting.

    Examples
    --------
    >>> from sklmeta import ProtoNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> from sklmeta.inspection import EpisodeDisplay
    >>> pool = load_digits_pool()
    >>> meta = ProtoNetClassifier(max_iter=20, random_state=0).fit(pool[:5])
    >>> display = EpisodeDisplay.from_estimator(meta, pool[5:], n_shot=1, n_query=4)
    >>> len(display.support_artists_), len(display.query_artists_)
    (5, 20)
    """

    def __init__(
        self,
        *,
        support_images: NDArray[Any],
        y_support: NDArray[Any],
        query_images: NDArray[Any],
        y_query: NDArray[Any],
        y_pred: NDArray[Any],
    ) -> None:
        self.support_images = support_images
        self.y_support = y_support
        self.query_images = query_images
        self.y_query = y_query
        self.y_pred = y_pred

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        tasks: Any,
        *,
        n_way: Any = None,
        n_shot: Any = 5,
        n_query: Any = 8,
        support_order: str = "random",
        small_tasks: str = "shrink",
        random_state: int = 0,
        episode: int = 0,
        image_shape: tuple[int, ...] | None = None,
        name: str | None = None,
        ax: Any = None,
        **imshow_kw: Any,
    ) -> Self:
        """Draw an episode, adapt a fitted classifier to it, and show it.

        Parameters
        ----------
        estimator : meta-learner
            A fitted classifier, or a fitted pipeline or search of one. It is left as it
            is, `adapted_` included.
        tasks : TaskSet, ClassPool, TaskDistribution or list of tasks
            Tasks of images.
        n_way : int or (int, int), default=None
            Classes of the episode; None: 5 of a ClassPool, all of a task.
        n_shot : int or (int, int), default=5
            Support images of each class; of the task, with shared labels.
        n_query : int, (int, int) or None, default=8
            Query images of each class; of the task, with shared labels; None: all
            others.
        support_order : {"random", "first"}, default="random"
            Which images are support.
        small_tasks : {"shrink", "drop", "raise"}, default="shrink"
            What to do with tasks that have too few images.
        random_state : int, default=0
            Seed of the episodes.
        episode : int, default=0
            Which of them: the row of ``evaluate(...).scores`` with the same arguments.
        image_shape : tuple of int, default=None
            Shape of flat rows; None takes the estimator's `image_shape`.
        name : str, default=None
            Put in front of the title; None names the estimator's class.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **imshow_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : EpisodeDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If the estimator is no classifier.
        ValueError
            If the rows are no images, or there is no such episode.
        """
        meta = last_step(estimator)
        if not is_classifier(meta):
            raise TypeError(
                f"EpisodeDisplay shows predicted labels, and {type(meta).__name__} is "
                "no classifier. See AdaptationDisplay for regression."
            )
        protocol = EpisodeProtocol(
            n_shot, n_query, n_way, None, support_order, small_tasks, random_state
        )
        drawn = draw_for([estimator], as_tasks(tasks), protocol, True)
        support, query = episode_rows(drawn, episode)
        model = adapted(estimator, *support)
        return cls.from_predictions(
            *support,
            *query,
            model.predict(query[0]),
            image_shape=image_shape or getattr(meta, "image_shape", None),
            ax=ax,
            name=name or type(meta).__name__,
            **imshow_kw,
        )

    @classmethod
    def from_predictions(
        cls,
        X_support: ArrayLike,
        y_support: ArrayLike,
        X_query: ArrayLike,
        y_query: ArrayLike,
        y_pred: ArrayLike,
        *,
        image_shape: tuple[int, ...] | None = None,
        ax: Any = None,
        **plot_kw: Any,
    ) -> Self:
        """Draw an episode whose predictions are there already.

        Parameters
        ----------
        X_support : array-like of shape (n_support, height, width[, channels]) or \
                (n_support, n_features)
            Images adapted to.
        y_support : array-like of shape (n_support,)
            Their labels.
        X_query : array-like, as X_support
            Images predicted.
        y_query : array-like of shape (n_query,)
            Their true labels.
        y_pred : array-like of shape (n_query,)
            Their predicted labels.
        image_shape : tuple of int, default=None
            (height, width) or (height, width, channels) of flat rows.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **plot_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : EpisodeDisplay
            Drawn.

        Raises
        ------
        ValueError
            If rows are no images, or lengths differ.
        """
        labels = [np.asarray(y) for y in (y_support, y_query, y_pred)]
        support = _as_images(X_support, image_shape, "X_support")
        query = _as_images(X_query, image_shape, "X_query")
        for name, y, images in zip(
            ("y_support", "y_query", "y_pred"),
            labels,
            (support, query, query),
            strict=True,
        ):
            if y.shape != (len(images),):
                raise ValueError(
                    f"{name} has shape {y.shape} for {len(images)} images; expected "
                    "one label for each image."
                )
        display = cls(
            support_images=support,
            y_support=labels[0],
            query_images=query,
            y_query=labels[1],
            y_pred=labels[2],
        )
        return display.plot(ax, **plot_kw)

    def plot(
        self, ax: Any = None, *, name: str | None = None, **imshow_kw: Any
    ) -> Self:
        """Draw the images.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure, as large as the images need.
        name : str, default=None
            Put in front of the title, which says how many are right.
        **imshow_kw : dict
            Passed to matplotlib's `imshow` for every image, such as ``cmap``.

        Returns
        -------
        display : EpisodeDisplay
            This one.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        classes = np.unique(np.concatenate([self.y_support, self.y_query]))
        supports = [np.flatnonzero(self.y_support == label) for label in classes]
        queries = [np.flatnonzero(self.y_query == label) for label in classes]
        n_support, n_query = max(map(len, supports)), max(map(len, queries))
        height, width = self.query_images.shape[1:3]
        image_ratio = height / width
        wide, tall = n_support + GAP + n_query, len(classes) * (1 + LABEL) * image_ratio
        names = [_short(label, LONGEST_NAME) for label in classes]
        beside = MARGIN + LETTER * max(map(len, names))
        ax = new_axes(ax, "EpisodeDisplay", size=_figure_size(wide, tall, beside))
        support_images, query_images = _in_one_range(self)
        where = _positions(supports, start=0.0)
        self.support_artists_ = _draw(ax, support_images, where, imshow_kw)
        where = _positions(queries, start=n_support + GAP)
        self.query_artists_ = _draw(ax, query_images, where, imshow_kw)
        self._mark(ax, where)
        _dress(ax, names, {"Support": n_support, "Query": n_query}, image_ratio)
        n_right = int((self.y_pred == self.y_query).sum())
        title = f"{n_right} of {len(self.y_query)} right"
        ax.set_title(title if name is None else f"{name}: {title}", fontsize="medium")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _mark(self, ax: Any, where: NDArray[np.float64]) -> None:
        """Write the predicted label below each query image; frame the wrong ones."""
        from matplotlib.patches import Rectangle

        self.label_texts_, self.frames_ = [], []
        for (x, y), label, true in zip(where, self.y_pred, self.y_query, strict=True):
            right = bool(label == true)
            text = ax.text(
                x + 0.5,
                y + 1.05,
                _short(label, LONGEST_LABEL),
                color=RIGHT if right else WRONG,
                weight="normal" if right else "bold",
                ha="center",
                va="top",
                fontsize="small",
            )
            self.label_texts_.append(text)
            if not right:
                frame = Rectangle((x + PAD, y), 1 - 2 * PAD, 1, fill=False, zorder=3)
                frame.set(edgecolor=WRONG, linewidth=2)
                self.frames_.append(ax.add_patch(frame))


def _draw(
    ax: Any, images: NDArray[Any], where: NDArray[np.float64], given: dict[str, Any]
) -> list[Any]:
    """Draw each image with its left upper corner at (x, y)."""
    kw = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest", **given}
    drawn = []
    for image, (x, y) in zip(images, where, strict=True):
        extent = (x + PAD, x + 1 - PAD, y + 1, y)
        drawn.append(ax.imshow(image, extent=extent, aspect="auto", **kw))
    return drawn


def _positions(rows: list[NDArray[np.int64]], start: float) -> NDArray[np.float64]:
    """Return the corner (x, y) of each image, class by class from top to bottom."""
    where = np.empty((sum(map(len, rows)), 2))
    for i, members in enumerate(rows):
        where[members, 0] = start + np.arange(len(members))
        where[members, 1] = i * (1 + LABEL)
    return where


def _dress(
    ax: Any, names: list[str], blocks: dict[str, int], image_ratio: float
) -> None:
    """Name rows by class and blocks of columns by what they hold; hide the axes."""
    n_support, n_query = blocks.values()
    rows = np.arange(len(names)) * (1 + LABEL)
    ax.set(xlim=(0, n_support + GAP + n_query), ylim=(rows[-1] + 1 + LABEL, -0.05))
    ax.set_aspect(image_ratio)
    ax.set_yticks(rows + 0.5, labels=names)
    centres = [n_support / 2, n_support + GAP + n_query / 2]
    ax.set_xticks(centres, labels=list(blocks))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _in_one_range(display: EpisodeDisplay) -> list[NDArray[Any]]:
    """Return support and query images as numbers, 0 black and 1 white in all."""
    images = [display.support_images, display.query_images]
    if all(values.dtype == np.uint8 for values in images):
        return [values / 255 for values in images]
    low = min(float(np.nanmin(values)) for values in images)
    high = max(float(np.nanmax(values)) for values in images)
    if low >= 0 and high <= 1:
        return [values.astype(np.float64) for values in images]  # 1 of 255, as integers
    return [(values - low) / (high - low or 1.0) for values in images]


def _figure_size(wide: float, tall: float, beside: float) -> tuple[float, float]:
    """Return the size in inches for so many image widths, and the rows' names."""
    scale = min(IMAGE_SIZE, LARGEST / max(wide, tall))
    return max(SMALLEST, wide * scale + beside), tall * scale + MARGIN


def _short(label: Any, longest: int) -> str:
    """Return a label, cut in its middle if it is long."""
    text = str(label)
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}…{text[-half:]}"


def _as_images(X: Any, image_shape: tuple[int, ...] | None, name: str) -> NDArray[Any]:
    """Return rows as images (R, height, width[, 3 or 4])."""
    X = np.asarray(X)
    if X.ndim == 2:
        X = _unflattened(X, image_shape, name)
    if X.ndim not in (3, 4) or not len(X):
        raise ValueError(
            f"{name} has shape {X.shape}; expected images, (n, height, width) or "
            "(n, height, width, channels), at least one."
        )
    if X.ndim == 4 and X.shape[3] == 1:
        X = X[..., 0]
    if X.ndim == 4 and X.shape[3] not in (3, 4):
        raise ValueError(
            f"{name} holds images of {X.shape[3]} channels; only grey (1), RGB (3) and "
            "RGBA (4) can be drawn. Give the channels to show."
        )
    return X.astype(np.float64) if X.dtype.kind not in "uif" else X


def _unflattened(
    X: NDArray[Any], image_shape: tuple[int, ...] | None, name: str
) -> NDArray[Any]:
    if image_shape is None:
        raise ValueError(
            f"{name} holds flat rows of {X.shape[1]} values, not images. Say of what "
            "shape they are, such as image_shape=(28, 28)."
        )
    if np.prod(image_shape) != X.shape[1]:
        raise ValueError(
            f"image_shape={image_shape} has {np.prod(image_shape)} values, but rows of "
            f"{name} have {X.shape[1]}."
        )
    return X.reshape(len(X), *image_shape)
