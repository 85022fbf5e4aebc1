"""What meta-learners promise beyond the contract, as scikit-learn's tags do."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MetaTags"]


@dataclass
class MetaTags:
    """What a meta-learner promises; `check_meta_learner` checks it, or its opposite.

    A meta-learner says other things than its parent by a method
    ``__sklmeta_tags__``, as with scikit-learn's ``__sklearn_tags__``.

    Parameters
    ----------
    learns_from_tasks : bool, default=True
        Whether meta-training changes what is predicted. If False, predictions must not
        depend on the meta-training tasks.
    uses_support : tuple of {"local", "shared", "numbers"}, \
default=("local", "shared", "numbers")
        With which tasks the support rows change what is predicted: tasks with local
        labels, with shared labels, with numbers to predict. With the others,
        predictions must not depend on the support rows.
    labels : tuple of {"local", "shared"}, default=("local", "shared")
        Of a classifier: which labels it can be meta-trained on, those that mean
        something only inside one task, or the same in all. It must refuse the others.
    any_number_of_ways : bool, default=True
        Whether, with local labels, a new task may have more ways than those of
        meta-training. If False, such a task must be refused.
    episodic : bool, default=False
        Whether a torch learner is trained by gradients on episodes, as by
        `EpisodicMetaLearner`: there are `learner_`, `history_` and `n_iter_`, the
        parameters `max_iter` and `warm_start`, and `partial_fit`. If False, there must
        be none of these, and every `fit` starts anew.
    gives_std : bool, default=False
        Whether a regressor has predictive densities: ``predict(X, return_std=True)``,
        `sample_y`, and `adapt` without arguments.

    Examples
    --------
    >>> from sklmeta import MAMLRegressor
    >>> from sklmeta.utils import MetaTags
    >>> class Frozen(MAMLRegressor):
    ...     def __sklmeta_tags__(self):
    ...         tags = super().__sklmeta_tags__()
    ...         tags.learns_from_tasks = False
    ...         return tags
    >>> Frozen().__sklmeta_tags__()
    MetaTags(learns_from_tasks=False, ..., episodic=True, gives_std=False)
    """

    learns_from_tasks: bool = True
    uses_support: tuple[str, ...] = ("local", "shared", "numbers")
    labels: tuple[str, ...] = ("local", "shared")
    any_number_of_ways: bool = True
    episodic: bool = False
    gives_std: bool = False
