"""Every tool that tasks meet x every form of tasks x every kind of problem.

A cell either works, or is refused with a message that says what to use instead. Where
scikit-learn itself refuses, before any of our code is asked, its message is pinned
beside what works in its place.
"""

import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_predict,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklmeta import (
    MAMLRegressor,
    PerTaskRegressor,
    ProtoNetClassifier,
    TaskTransformer,
    make_meta_pipeline,
)
from sklmeta.datasets import Sinusoids
from sklmeta.exceptions import SmallTaskWarning, TaskLeakageWarning
from sklmeta.model_selection import (
    EpisodicSplit,
    LeaveOneTaskOut,
    TaskKFold,
    TaskShuffleSplit,
    compare,
    evaluate,
    make_episode_scorer,
)
from sklmeta.tasks import ClassPool, TaskSet

N_TASKS, N_ROWS, N_FEATURES, N_CLASSES = 9, 12, 3, 9
KINDS = ("numbers", "shared", "local")
TASK_FORMS = ("TaskSet", "tasks", "pairs", "object array")
LONG_FORMS = ("arrays", "frame")
NO_ITEMS = r"draws fresh tasks.*X\.sample\(n_tasks"
SKLEARN = tuple(int(part) for part in sklearn.__version__.split(".")[:2])


class Given:
    """A distribution that always gives the same tasks, and inherits nothing."""

    def __init__(self, tasks):
        self.tasks = tasks

    def sample(self, n_tasks, random_state=None):
        return self.tasks[np.arange(n_tasks) % len(self.tasks)]


def task_set(kind):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_TASKS * N_ROWS, N_FEATURES))
    y = X @ [1.0, 2.0, 0.0] + 0.1 * rng.normal(size=len(X))
    if kind != "numbers":
        y = np.tile(["high", "low"], len(X) // 2)
        X[y == "high"] += 2.0
    labels = "local" if kind == "local" else "shared"
    groups = np.repeat([f"task {t}" for t in range(N_TASKS)], N_ROWS)
    return TaskSet.from_arrays(X, y, groups, labels=labels)


def class_pool():
    rng = np.random.default_rng(1)
    y = np.repeat(np.arange(N_CLASSES), N_ROWS)
    return ClassPool(rng.normal(size=(len(y), N_FEATURES)) + y[:, None], y)


def learner(kind):
    if kind == "numbers":
        return MAMLRegressor(max_iter=2, inner_steps=1, n_shot=4, random_state=0)
    n_shot = 1 if kind == "local" else 4
    return ProtoNetClassifier(max_iter=2, n_shot=n_shot, n_query=2, random_state=0)


def given(form, kind):
    """Return what is handed to a tool: positional arguments, and groups."""
    if form == "ClassPool":
        return (class_pool(),), {}
    tasks = task_set(kind)
    if form == "TaskSet":
        return (tasks,), {}
    if form == "tasks":
        return (list(tasks),), {}
    if form == "pairs":
        return ([(task.X, task.y) for task in tasks],), {}
    if form == "object array":
        array = np.empty(len(tasks), dtype=object)
        array[:] = list(tasks)
        return (array,), {}
    if form == "distribution":
        return (Given(tasks),), {}
    rows = tasks.rows()
    groups = np.repeat(np.array(tasks.names), N_ROWS)
    if form == "frame":
        X = pd.DataFrame(rows.X, columns=["a", "b", "c"])
        return (X, pd.Series(rows.y)), {"groups": groups}
    return (rows.X, rows.y), {"groups": groups}


# The tools: each takes an estimator, positional arguments, groups and `scoring`, and
# returns one score per candidate, fold or size.


def searched(search):
    scores = search.cv_results_["mean_test_score"]
    assert search.best_estimator_.n_features_in_ == N_FEATURES
    return scores


def grid(estimator):
    names = estimator.get_params()
    name = next(n for n in names if n.split("__")[-1] == "max_iter")
    return {name: [1, 2]}


def grid_search(estimator, args, keywords, scoring):
    search = GridSearchCV(
        estimator, grid(estimator), scoring=scoring, cv=3, error_score="raise"
    )
    search.set_params(cv=TaskKFold(3))
    return searched(search.fit(*args, **keywords))


def randomized_search(estimator, args, keywords, scoring):
    search = RandomizedSearchCV(
        estimator,
        grid(estimator),
        n_iter=2,
        scoring=scoring,
        cv=TaskShuffleSplit(2, test_size=3, random_state=0),
        random_state=0,
        error_score="raise",
    )
    return searched(search.fit(*args, **keywords))


def halving_search(estimator, args, keywords, scoring, **limits):
    limits = limits or {"resource": "n_samples", "min_resources": 8}
    search = HalvingGridSearchCV(
        estimator,
        {name.replace("max_iter", "outer_lr"): [0.01, 0.1] for name in grid(estimator)},
        scoring=scoring,
        cv=TaskKFold(3),
        random_state=0,
        error_score="raise",
        **limits,
    )
    if limits["resource"] == "n_samples" and keywords:
        search.set_params(min_resources=60)  # rows, not tasks
    return searched(search.fit(*args, **keywords))


def halving_updates(estimator, args, keywords, scoring):
    """Let candidates train longer and longer, rather than on more tasks."""
    name = next(iter(grid(estimator)))
    limits = {"resource": name, "min_resources": 1, "max_resources": 4}
    return halving_search(estimator, args, keywords, scoring, **limits)


def cross_validated(estimator, args, keywords, scoring):
    found = cross_validate(
        estimator,
        *args,
        params=keywords or None,
        scoring=scoring,
        cv=LeaveOneTaskOut() if not isinstance(args[0], ClassPool) else TaskKFold(3),
        error_score="raise",
    )
    return found["test_score"]


def curve(tool, estimator, args, keywords, scoring, **options):
    found = tool(
        estimator,
        args[0],
        args[1] if len(args) > 1 else None,
        params=keywords or None,
        scoring=scoring,
        cv=TaskKFold(3),
        error_score="raise",
        **options,
    )
    return found[-1]


def learning(estimator, args, keywords, scoring):
    sizes = [0.7, 1.0]
    return curve(learning_curve, estimator, args, keywords, scoring, train_sizes=sizes)


def validation(estimator, args, keywords, scoring):
    name, values = next(iter(grid(estimator).items()))
    varied = {"param_name": name, "param_range": values}
    return curve(validation_curve, estimator, args, keywords, scoring, **varied)


TOOLS = {
    "GridSearchCV": grid_search,
    "RandomizedSearchCV": randomized_search,
    "HalvingGridSearchCV over tasks": halving_search,
    "HalvingGridSearchCV over updates": halving_updates,
    "cross_validate": cross_validated,
    "learning_curve": learning,
    "validation_curve": validation,
}


def forms_of(kind):
    """Return the forms there are: only two of them can say that labels are local."""
    if kind == "local":
        return ("TaskSet", "ClassPool")
    return (*TASK_FORMS, *LONG_FORMS)


def cells(*forms):
    """Return the pairs of a kind of problem and a form that there are."""
    return [
        pytest.param(kind, form, id=f"{kind}-{form}")
        for kind in KINDS
        for form in forms_of(kind)
        if not forms or form in forms
    ]


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallTaskWarning)
        # In long format learning_curve and halving count rows, and cut tasks short.
        warnings.filterwarnings("ignore", ".*tasks with only one query row")
        yield


@pytest.mark.parametrize("scoring", ["score", "episode scorer"])
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(("kind", "form"), cells())
def test_scikit_learns_tools_take_meta_learners(tool, kind, form, scoring):
    assert_works(tool, learner(kind), kind, form, scoring)


# Of other forms a MetaPipeline makes a TaskSet before it does anything.
@pytest.mark.parametrize("scoring", ["score", "episode scorer"])
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(("kind", "form"), cells("TaskSet", "ClassPool", "frame"))
def test_scikit_learns_tools_take_pipelines(tool, kind, form, scoring):
    pipeline = make_meta_pipeline(StandardScaler(), learner(kind))
    assert_works(tool, pipeline, kind, form, scoring)


def assert_works(tool, estimator, kind, form, scoring):
    args, keywords = given(form, kind)
    n_shot = 1 if kind == "local" else 4
    scorer = make_episode_scorer(n_shot=n_shot) if scoring != "score" else None
    with sklearn.config_context(enable_metadata_routing=bool(keywords)):
        scores = TOOLS[tool](estimator, args, keywords, scorer)
    assert np.isfinite(scores).all()


# Names seed the episodes, and pairs have none.
@pytest.mark.parametrize("form", ["tasks", "object array"])
def test_every_form_gives_the_same_scores(form):
    args, keywords = given(form, "shared")
    want = grid_search(learner("shared"), (task_set("shared"),), {}, None)
    got = grid_search(learner("shared"), args, keywords, None)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("form", LONG_FORMS)
def test_long_format_gives_the_same_scores(form):
    args, keywords = given(form, "numbers")
    want = grid_search(learner("numbers"), (task_set("numbers"),), {}, None)
    with sklearn.config_context(enable_metadata_routing=True):
        got = grid_search(learner("numbers"), args, keywords, None)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("form", LONG_FORMS)
@pytest.mark.parametrize("tool", TOOLS)
def test_long_format_without_routing_names_the_remedies(tool, form):
    args, _ = given(form, "numbers")
    remedy = r"enable_metadata_routing=True"
    with pytest.raises(ValueError, match=remedy):
        TOOLS[tool](learner("numbers"), args, {}, None)


@pytest.mark.parametrize("tool", TOOLS)
def test_distributions_have_nothing_to_split(tool):
    with pytest.raises(TypeError, match=NO_ITEMS):
        TOOLS[tool](learner("numbers"), (Sinusoids(),), {}, None)


def test_halving_over_tasks_needs_a_smallest_number_of_a_classifier():
    """scikit-learn counts the classes in y, which tasks bring inside of them."""
    tasks = task_set("shared")
    limits = {"resource": "n_samples", "min_resources": "smallest"}
    with pytest.raises(ValueError, match="Validation should be done on X, y or both"):
        halving_search(learner("shared"), (tasks,), {}, None, **limits)


@pytest.mark.parametrize("kind", KINDS)
def test_cross_val_predict_is_refused_with_what_to_use(kind):
    with pytest.raises(NotFittedError, match="make_episode_scorer"):
        cross_val_predict(learner(kind), task_set(kind), cv=TaskKFold(3))


@pytest.mark.filterwarnings("ignore:.*these are training scores")
@pytest.mark.parametrize(
    ("kind", "form"),
    [*cells(*TASK_FORMS, "ClassPool"), *((kind, "distribution") for kind in KINDS)],
)
def test_evaluate_and_compare_take_every_form(kind, form):
    (tasks,), _ = given(form, kind)
    fitted = learner(kind).fit(tasks)
    protocol = {"n_shot": 1 if kind == "local" else 4, "random_state": 0}
    alone = evaluate(fitted, tasks, n_episodes=3, **protocol)
    assert np.isfinite(alone.scores["score"]).all()
    both = compare({"a": fitted, "b": fitted}, tasks, n_episodes=3, **protocol)
    of_a = both.scores.query("method == 'a'")["score"].to_numpy()
    np.testing.assert_array_equal(of_a, alone.scores["score"].to_numpy())


@pytest.mark.parametrize(("kind", "form"), cells())
def test_splitters_over_tasks_cut_every_form_alike(kind, form):
    args, keywords = given(form, kind)
    n_items = len(args[0])
    n_units = N_CLASSES if form == "ClassPool" else N_TASKS
    splitters = [TaskKFold(3), TaskShuffleSplit(2, test_size=3, random_state=0)]
    splitters += [] if form == "ClassPool" else [LeaveOneTaskOut()]
    for cv in splitters:
        for train, test in cv.split(*args, **keywords):
            assert len(train) + len(test) == n_items
            assert not set(train) & set(test)
            assert len(test) % (n_items // n_units) == 0


def test_rows_are_split_by_episodes_and_tasks_are_not():
    tasks = task_set("shared")
    with pytest.raises(TypeError, match="TaskKFold"):
        next(EpisodicSplit(n_shot=1, n_query=1).split(tasks))


@pytest.mark.parametrize(("kind", "form"), cells())
def test_pipelines_of_every_kind_take_every_form(kind, form):
    """The stock Pipeline takes tasks behind a TaskTransformer, and long format."""
    args, keywords = given(form, kind)
    rows = StandardScaler()
    first = rows if form in LONG_FORMS else TaskTransformer(rows)
    pipelines = [
        make_meta_pipeline(rows, learner(kind)),
        make_pipeline(first, learner(kind)),
    ]
    with sklearn.config_context(enable_metadata_routing=True):
        scores = [
            pipeline.fit(*args, **keywords).score(*args, **keywords)
            for pipeline in pipelines
        ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_a_row_wise_metric_in_long_format_names_the_episode_scorer():
    args, keywords = given("arrays", "numbers")
    with (
        sklearn.config_context(enable_metadata_routing=True),
        pytest.raises(NotFittedError, match="make_episode_scorer"),
    ):
        grid_search(learner("numbers"), args, keywords, "r2")


@pytest.mark.parametrize("row_wise", ["r2", "neg_mean_squared_error"])
def test_a_row_wise_metric_on_tasks_is_refused_by_scikit_learn(row_wise):
    """It asks for y before any of our code is asked; make_episode_scorer says so."""
    with pytest.raises(TypeError, match="y_true"):
        grid_search(learner("numbers"), (task_set("numbers"),), {}, row_wise)
    assert 'scoring="r2"' in make_episode_scorer.__doc__


@pytest.mark.parametrize("scoring", ["score", "episode scorer"])
def test_folds_of_rows_warn_of_leakage(scoring):
    args, keywords = given("arrays", "numbers")
    with (
        sklearn.config_context(enable_metadata_routing=True),
        pytest.warns(TaskLeakageWarning, match=r"cv=TaskKFold\(\)"),
    ):
        cross_validate(
            learner("numbers"),
            *args,
            params=keywords,
            cv=KFold(3, shuffle=True, random_state=0),
            scoring=None if scoring == "score" else make_episode_scorer(n_shot=2),
            error_score="raise",
        )


def test_baselines_are_searched_by_their_inner_parameters():
    search = GridSearchCV(
        PerTaskRegressor(Ridge(), n_shot=6),
        {"estimator__alpha": [1e-3, 1e3]},
        cv=TaskKFold(3),
        error_score="raise",
    )
    search.fit(task_set("numbers"))
    assert search.best_params_ == {"estimator__alpha": 1e-3}
