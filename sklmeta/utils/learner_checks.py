"""What every meta-learner must pass, those of other packages too.

As in scikit-learn's checks of estimators, each check is a small function that raises
an AssertionError; here they share generated problems and one trained copy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sklearn.base import is_classifier

from sklmeta._meta_tags import MetaTags
from sklmeta.utils import _check_adaptation as adaptation
from sklmeta.utils import _check_contract as contract
from sklmeta.utils import _check_densities as densities
from sklmeta.utils import _check_learning as learning
from sklmeta.utils import _check_training as training
from sklmeta.utils._check_problems import Problem

__all__ = [
    "check_meta_learner",
    "parametrize_with_meta_checks",
    "yield_meta_checks",
]

Check = Callable[..., None]

_ALL: tuple[Check, ...] = (
    contract.check_init_only_assigns,
    contract.check_clone_and_params,
    contract.check_not_fitted,
    contract.check_input_forms,
    contract.check_task_distribution,
    contract.check_ragged_tasks,
    contract.check_pandas,
    contract.check_dtypes,
    contract.check_n_features,
    contract.check_inputs_not_mutated,
    training.check_same_seed,
    training.check_threads,
    training.check_global_rng,
    training.check_fit_twice,
    training.check_failure_keeps,
    training.check_grid_search,
    adaptation.check_adapt_keeps_weights,
    adaptation.check_query_batch,
    adaptation.check_support_order,
    adaptation.check_task_order,
    adaptation.check_predict_tasks,
    adaptation.check_pickle,
    adaptation.check_adapt_again,
    adaptation.check_side_by_side,
)
_OF_CLASSIFIERS: tuple[Check, ...] = (
    contract.check_string_labels,
    adaptation.check_probabilities,
)
_OF_DENSITIES: tuple[Check, ...] = (
    densities.check_std,
    densities.check_units,
    densities.check_draws,
    densities.check_prior,
)
_OF_KIND: dict[str, tuple[Check, ...]] = {
    "local": (
        *_OF_CLASSIFIERS,
        contract.check_class_pool,
        adaptation.check_label_names,
    ),
    "shared": (*_OF_CLASSIFIERS, contract.check_missing_classes),
    "numbers": (
        contract.check_refuses_class_pool,
        adaptation.check_several_outputs,
    ),
}


def _by_tags(tags: MetaTags, kind: str) -> Iterator[Check]:
    """Yield a check of each promise that is made, and of its opposite where it is not.

    Only who learns from tasks and from support rows can beat what sees either alone.
    """
    if tags.episodic:
        yield training.check_partial_fit
        yield training.check_warm_start
    else:
        yield training.check_starts_anew
    if kind == "local":
        yield (
            contract.check_unseen_ways
            if tags.any_number_of_ways
            else contract.check_refuses_more_ways
        )
    if kind == "numbers" and tags.gives_std:
        yield from _OF_DENSITIES
    adapts = kind in tags.uses_support
    if tags.learns_from_tasks:
        yield learning.check_beats_untrained
    else:
        yield learning.check_ignores_tasks
    if tags.learns_from_tasks and adapts:
        yield learning.check_beats_per_task_baseline
    yield (
        learning.check_uses_support_labels
        if adapts
        else (learning.check_ignores_support)
    )


def yield_meta_checks(estimator: Any) -> Iterator[tuple[Any, Callable[[Any], None]]]:
    """Yield the checks of a meta-learner.

    Parameters
    ----------
    estimator : meta-learner
        Unfitted; it is never changed. `random_state` is set by the checks, and most
        take three meta-updates only; those of learning use its own parameters.

    Yields
    ------
    estimator : meta-learner
        The one given.
    check : callable
        To be called with the estimator; raises AssertionError where it does not hold.
        Classifiers are checked with labels that mean something inside one task, and
        then with labels that mean the same in all. A promise that the estimator's
        `MetaTags` do not make is checked for its opposite.
    """
    kinds = ("local", "shared") if is_classifier(estimator) else ("numbers",)
    name = type(estimator).__name__
    for kind in kinds:
        problem = Problem(kind)
        tags = estimator.__sklmeta_tags__()
        if kind != "numbers" and kind not in tags.labels:
            refusal = contract.check_refuses_labels
            yield estimator, partial(refusal, name, problem=problem)
            continue
        for check in (*_ALL, *_by_tags(tags, kind), *_OF_KIND[kind]):
            yield estimator, partial(check, name, problem=problem)


def check_meta_learner(estimator: Any) -> None:
    """Check that a meta-learner keeps the contract, and that it learns.

    It must come with parameters that let it learn easy tasks: 200 of them with 8
    features each, and 3 classes of 20 rows, or 30 rows with numbers to predict.

    Parameters
    ----------
    estimator : meta-learner
        Unfitted instance of a subclass of `BaseMetaLearner`; it is never changed.

    Raises
    ------
    AssertionError
        At the first check that does not hold.

    See Also
    --------
    parametrize_with_meta_checks : The same as separate tests of pytest.
    sklmeta.utils.MetaTags : What a meta-learner promises beyond the contract.

    Examples
    --------
    >>> from sklmeta import ProtoNetClassifier
    >>> from sklmeta.utils.learner_checks import check_meta_learner
    >>> check_meta_learner(ProtoNetClassifier(max_iter=60, outer_lr=3e-3))
    """
    for checked, check in yield_meta_checks(estimator):
        check(checked)


def parametrize_with_meta_checks(estimators: list[Any]) -> Any:
    """Return a pytest decorator that makes every check one test.

    Parameters
    ----------
    estimators : list of meta-learners
        Unfitted instances.

    Returns
    -------
    pytest.mark.parametrize
        For a test with the arguments `estimator` and `check`.

    See Also
    --------
    check_meta_learner : Runs all checks in one call.

    Examples
    --------
    >>> from sklmeta import MAMLRegressor
    >>> from sklmeta.utils.learner_checks import parametrize_with_meta_checks
    >>> @parametrize_with_meta_checks([MAMLRegressor(max_iter=200)])
    ... def test_meta_learner(estimator, check):
    ...     check(estimator)
    """
    import pytest

    cases = [case for estimator in estimators for case in yield_meta_checks(estimator)]
    return pytest.mark.parametrize(
        ("estimator", "check"), cases, ids=[_case_id(*case) for case in cases]
    )


def _case_id(estimator: Any, check: Any) -> str:
    """Return the name of a test, the same in every process."""
    shown = re.sub(r" at 0x\w+|\s+", "", repr(estimator))
    return f"{shown}-{check.func.__name__}-{check.keywords['problem'].kind}"
