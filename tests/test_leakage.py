"""Held-out rows reach no fit, whatever tool splits them off; shown by spies.

Column 0 of every row is its number. Spies write down which rows their `fit` sees.
"""

import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    RandomizedSearchCV,
    ShuffleSplit,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.fixes import parse_version

from sklmeta import (
    ClassPool,
    MAMLRegressor,
    PerTaskClassifier,
    PerTaskRegressor,
    PooledClassifier,
    PooledRegressor,
    ProtoNetClassifier,
    TaskLeakageWarning,
    TaskSet,
    TaskTransformer,
    make_meta_pipeline,
)
from sklmeta.model_selection import (
    LeaveOneTaskOut,
    TaskKFold,
    TaskShuffleSplit,
    evaluate,
    make_episode_scorer,
)
from sklmeta.tasks import as_tasks

SEEN = []  # (who, the numbers of the rows)
OLD = parse_version(sklearn.__version__) < parse_version("1.8")


@pytest.fixture(autouse=True)
def nothing_seen_yet():
    SEEN.clear()


def numbers(X):
    return frozenset(np.asarray(X, dtype=float)[:, 0].astype(int).tolist())


def seen_by(who):
    return [rows for name, rows in SEEN if name == who]


class Spy(TransformerMixin, BaseEstimator):
    """Passes rows through."""

    def __init__(self, param=0):
        self.param = param

    def fit(self, X, y=None):
        SEEN.append(("transformer", numbers(X)))
        self.fitted_ = True
        return self

    def transform(self, X):
        SEEN.append(("transform", numbers(X)))
        return X


class SpyLearner(MAMLRegressor):
    def fit(self, X, y=None, *, groups=None, validation_tasks=None):
        SEEN.append(("learner", numbers(as_tasks(X, y, groups).rows().X)))
        return super().fit(X, y, groups=groups, validation_tasks=validation_tasks)


class SpyProtoNet(ProtoNetClassifier):
    def fit(self, X, y=None, *, groups=None, validation_tasks=None):
        SEEN.append(("learner", numbers(as_tasks(X, y, groups).rows().X)))
        return super().fit(X, y, groups=groups, validation_tasks=validation_tasks)


class SpyRidge(Ridge):
    def fit(self, X, y):
        SEEN.append(("inner", numbers(X)))
        return super().fit(X, y)

    def predict(self, X):
        SEEN.append(("predicted", numbers(X)))
        return super().predict(X)


class SpyLogistic(LogisticRegression):
    def fit(self, X, y):
        SEEN.append(("inner", numbers(X)))
        return super().fit(X, y)


N_TASKS, N_ROWS = 8, 7


def long_format():
    """Return rows of tasks that do not lie together, and the task of each."""
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(N_TASKS), N_ROWS))
    X = np.column_stack([np.arange(len(groups)), rng.normal(size=len(groups))])
    return X, rng.normal(size=len(groups)), np.array([f"t{g}" for g in groups])


X, Y, GROUPS = long_format()
TASKS = TaskSet.from_arrays(X, Y, GROUPS)
POOL = ClassPool(X, GROUPS)  # a class is what was a task
FORMS = {
    "TaskSet": TASKS,
    "list of tasks": list(TASKS),
    "list of pairs": [(task.X, task.y) for task in TASKS],
}
QUICK = {"max_iter": 1, "n_shot": 2, "batch_size": 2, "random_state": 0}


def learner():
    return SpyLearner("identity", **QUICK)


def protonet():
    return SpyProtoNet("identity", n_way=2, n_query=2, **QUICK)


def estimators(meta, pooled, per_task):
    """Return every way in which rows get to a fit, and who sees them there."""
    both = ("transformer", "learner")
    return {
        "alone": (meta(), ("learner",)),
        "meta pipeline": (make_meta_pipeline(Spy(), meta()), both),
        "task transformer": (make_meta_pipeline(TaskTransformer(Spy()), meta()), both),
        "stock pipeline": (make_pipeline(TaskTransformer(Spy()), meta()), both),
        "pooled": (pooled(n_shot=2), ("inner",)),
        "pooled, piped": (
            make_meta_pipeline(Spy(), pooled(n_shot=2)),
            ("transformer", "inner"),
        ),
        "per task, piped": (
            make_meta_pipeline(Spy(), per_task(n_shot=2)),
            ("transformer",),
        ),
    }


REGRESSORS = estimators(
    learner,
    lambda **options: PooledRegressor(SpyRidge(), **options),
    lambda **options: PerTaskRegressor(Ridge(), **options),
)
CLASSIFIERS = estimators(
    protonet,
    lambda **options: PooledClassifier(SpyLogistic(), **options),
    lambda **options: PerTaskClassifier(KNeighborsClassifier(1), **options),
)


def row_numbers(tasks):
    return numbers(as_tasks(tasks).rows().X)


def assert_fits_see(who, wanted):
    """Each spy saw in its fits just these rows, fit by fit."""
    for name in who:
        assert seen_by(name) == wanted, f"the {name} saw other rows"


def train_rows(tasks, cv):
    items = as_tasks(tasks)
    return [row_numbers(items[train]) for train, _ in cv.split(items)]


# Folds of tasks, of classes, and of rows in long format -------------------------------

SPLITTERS = [
    TaskKFold(3),
    TaskKFold(3, shuffle=True, random_state=0),
    TaskShuffleSplit(2, test_size=3, random_state=0),
    LeaveOneTaskOut(),
    KFold(3),
    ShuffleSplit(2, test_size=3, random_state=0),
]


@pytest.mark.parametrize("cv", SPLITTERS, ids=str)
def test_every_splitter(cv):
    pipe = make_meta_pipeline(Spy(), learner())
    cross_val_score(pipe, TASKS, cv=cv, error_score="raise")
    wanted = train_rows(TASKS, cv)
    assert all(len(rows) < len(X) for rows in wanted)
    assert_fits_see(("transformer", "learner"), wanted)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", REGRESSORS)
def test_held_out_tasks_reach_no_fit(name, form):
    estimator, who = REGRESSORS[name]
    cross_validate(estimator, FORMS[form], cv=TaskKFold(3), error_score="raise")
    assert_fits_see(who, train_rows(TASKS, TaskKFold(3)))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_held_out_classes_reach_no_fit(name):
    estimator, who = CLASSIFIERS[name]
    cross_validate(estimator, POOL, cv=TaskKFold(2), error_score="raise")
    assert_fits_see(who, train_rows(POOL, TaskKFold(2)))


@pytest.mark.parametrize("name", REGRESSORS)
def test_held_out_tasks_reach_no_fit_in_long_format(name):
    if name == "stock pipeline" and OLD:
        pytest.skip("before 1.8, scikit-learn loses groups when it scores a Pipeline")
    estimator, who = REGRESSORS[name]
    with sklearn.config_context(enable_metadata_routing=True):
        cross_validate(
            estimator,
            X,
            Y,
            params={"groups": GROUPS},
            cv=TaskKFold(3),
            error_score="raise",
        )
    folds = TaskKFold(3).split(X, groups=GROUPS)
    assert_fits_see(who, [numbers(X[train]) for train, _ in folds])


@pytest.mark.skipif(OLD, reason="scikit-learn loses groups when it scores a Pipeline")
def test_row_transformers_of_stock_pipelines_in_long_format():
    stock = make_pipeline(Spy(), learner())
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            stock,
            {"spy__param": [1]},
            cv=TaskKFold(3),
            error_score="raise",
            refit=False,
        )
        search.fit(X, Y, groups=GROUPS)
    folds = TaskKFold(3).split(X, groups=GROUPS)
    assert_fits_see(("transformer", "learner"), [numbers(X[t]) for t, _ in folds])


# Other tools --------------------------------------------------------------------------


def curve_of_learning(pipe, cv):
    learning_curve(pipe, TASKS, None, cv=cv, train_sizes=[1.0], error_score="raise")


def curve_of_validation(pipe, cv):
    options = {"param_name": "spy__param", "param_range": [1]}
    validation_curve(pipe, TASKS, None, cv=cv, error_score="raise", **options)


def grid_search(pipe, cv):
    search = GridSearchCV(
        pipe, {"spy__param": [1]}, cv=cv, error_score="raise", refit=False
    )
    search.fit(TASKS)


def random_search(pipe, cv):
    search = RandomizedSearchCV(
        pipe, {"spy__param": [1]}, n_iter=1, cv=cv, error_score="raise", refit=False
    )
    search.fit(TASKS)


def episode_scorer(pipe, cv):
    scorer = make_episode_scorer("rmse", n_shot=2, n_episodes=2)
    cross_validate(pipe, TASKS, cv=cv, scoring=scorer, error_score="raise")


TOOLS = [
    curve_of_learning,
    curve_of_validation,
    grid_search,
    random_search,
    episode_scorer,
]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_every_tool(tool):
    tool(make_meta_pipeline(Spy(), learner()), TaskKFold(2))
    assert_fits_see(("transformer", "learner"), train_rows(TASKS, TaskKFold(2)))


def test_search_fits_on_all_tasks_only_once_at_last():
    pipe = make_meta_pipeline(Spy(), learner())
    search = GridSearchCV(
        pipe, {"spy__param": [1, 2]}, cv=TaskKFold(2), error_score="raise"
    ).fit(TASKS)
    folds = train_rows(TASKS, TaskKFold(2))
    wanted = [*folds, *folds, row_numbers(TASKS)]
    assert_fits_see(("transformer", "learner"), wanted)
    SEEN.clear()
    search.score(TASKS[:2])
    search.best_estimator_.adapt(TASKS[0].X[:3], TASKS[0].y[:3]).predict(X)
    assert_fits_see(("transformer", "learner", "inner"), [])


@pytest.mark.filterwarnings("ignore::UserWarning")  # of small tasks
def test_a_row_wise_split_is_caught():
    """The spy does see what leaks: folds of rows put every task on both sides."""
    pipe = make_meta_pipeline(Spy(), learner())
    with (
        sklearn.config_context(enable_metadata_routing=True),
        pytest.warns(TaskLeakageWarning, match="meta-trained on with other rows"),
    ):
        cross_validate(pipe, X, Y, params={"groups": GROUPS}, cv=KFold(2))
    held_out = [numbers(X[test]) for _, test in KFold(2).split(X)]
    tasks_seen = [set(GROUPS[sorted(rows)]) for rows in seen_by("learner")]
    for rows, names in zip(held_out, tasks_seen, strict=True):
        assert set(GROUPS[sorted(rows)]) & names


# Held out while training --------------------------------------------------------------


def test_validation_tasks_reach_no_transformer():
    pipe = make_meta_pipeline(Spy(), learner())
    pipe.set_params(spylearner__early_stopping=True)
    pipe.fit(TASKS[:5], validation_tasks=TASKS[5:])
    assert_fits_see(("transformer", "learner"), [row_numbers(TASKS[:5])])


# Query rows and transformers of each task ---------------------------------------------


def own_spies(meta):
    return make_meta_pipeline(TaskTransformer(Spy(), per_task=True), meta)


def assert_support_only(n_shot, new):
    """Each task's transformer was fitted on `n_shot` of its rows, and moved others."""
    fits = seen_by("transformer")
    assert fits
    for rows in fits:
        assert len(rows) == n_shot
        assert len({GROUPS[row] for row in rows}) == 1
    moved = set().union(*seen_by("transform"))
    assert moved == row_numbers(new)


@pytest.mark.parametrize("meta", [learner, lambda: PerTaskRegressor(Ridge(), n_shot=2)])
def test_query_rows_reach_no_fit_at_score(meta):
    pipe = own_spies(meta()).fit(TASKS[:5])
    assert seen_by("transformer")[-5:] == [row_numbers([task]) for task in TASKS[:5]]
    for judge in (pipe.score, lambda new: evaluate(pipe, new, n_shot=2)):
        SEEN.clear()
        judge(TASKS[5:])
        assert_support_only(2, TASKS[5:])


def test_query_rows_reach_no_fit_in_a_search():
    search = GridSearchCV(
        own_spies(learner()),
        {"tasktransformer__transformer__param": [1]},
        cv=TaskKFold(2),
        scoring=make_episode_scorer("rmse", n_shot=3, n_episodes=2),
        error_score="raise",
        refit=False,
    ).fit(TASKS)
    assert search.cv_results_["mean_test_score"].shape == (1,)
    train = [row_numbers([task]) for task in TASKS]
    small = [rows for rows in seen_by("transformer") if rows not in train]
    # 2 folds of 4 tasks, 2 episodes each.
    assert [len(rows) for rows in small] == [3] * 16


def test_fixed_support_rows_alone_are_fitted_on():
    mask = np.arange(len(X)) % 3 == 0
    order = np.argsort(GROUPS, kind="stable")
    marked = TaskSet.from_arrays(X[order], Y[order], GROUPS[order], support=mask[order])
    pipe = own_spies(learner()).fit(marked[:5])
    pipe.score(marked[5:])
    evaluate(pipe, marked[5:])
    fitted_on = set().union(*seen_by("transformer"))
    assert fitted_on == {row for row in range(len(X)) if row % 3 == 0}


def test_rows_to_predict_reach_no_fit():
    pipe = own_spies(learner()).fit(TASKS[:5])
    SEEN.clear()
    task = TASKS[6]
    model = pipe.adapt(task.X[:3], task.y[:3])
    model.predict(task.X[3:])
    pipe.predict_tasks([(task.X[:3], task.y[:3])], [task.X[3:]])
    assert seen_by("transformer") == [numbers(task.X[:3])] * 2


def test_per_task_baseline_is_fitted_on_support_rows_only():
    baseline = PerTaskRegressor(SpyRidge(), n_shot=2).fit(TASKS[:5])
    SEEN.clear()
    baseline.score(TASKS[5:])
    supports, queries = seen_by("inner"), seen_by("predicted")
    assert len(supports) == 3
    for support, query, task in zip(supports, queries, TASKS[5:], strict=True):
        assert len(support) == 2
        assert support | query == row_numbers([task])
        assert not support & query
