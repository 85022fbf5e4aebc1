"""Every input that cannot be used is refused in words, and nothing learned is lost."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklmeta import (
    ANILRegressor,
    ClassPool,
    FewShotClassifier,
    FewShotRegressor,
    MAMLClassifier,
    MAMLRegressor,
    MetaTrainingError,
    ProtoNetClassifier,
    SmallTaskWarning,
    Task,
    TaskSet,
    ValidationTasks,
    make_meta_pipeline,
)
from sklmeta.datasets import make_sinusoids

QUICK = {"max_iter": 5, "batch_size": 4, "random_state": 0}


def make_tasks(n_tasks=8, n_rows=12, n_features=3, labels=None, seed=0, **kwargs):
    """Return named tasks: labels drawn from `labels`, or linear targets."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_tasks * n_rows, n_features))
    y = X.sum(1)
    if labels is not None:
        y = np.asarray(labels)[np.arange(len(X)) % len(labels)]
    names = np.repeat([f"shop{i}" for i in range(n_tasks)], n_rows)
    return TaskSet.from_arrays(X, y, names, **kwargs)


def with_cell(value, row=17, column=1):
    """Return X, y, groups of tasks whose X holds `value` in one cell of shop1."""
    tasks = make_tasks()
    X = tasks.rows().X.astype(object if isinstance(value, str) else float)
    X[row, column] = value
    return X, tasks.rows().y, np.repeat(tasks.names, 12)


@pytest.fixture(scope="module")
def regressor():
    return MAMLRegressor(**QUICK).fit(make_tasks())


@pytest.fixture(scope="module")
def shared():
    return MAMLClassifier(**QUICK).fit(make_tasks(labels=["a", "b", "c"]))


@pytest.fixture(scope="module")
def local():
    tasks = make_tasks(labels=["a", "b", "c"])
    meta = ProtoNetClassifier(n_shot=1, **QUICK)
    return meta.fit(TaskSet(tasks, labels="local"))


def snapshot(meta):
    """Return everything a user has after fit and adapt, as numbers."""
    query = np.linspace(-2, 2, 12).reshape(4, 3)
    weights = {k: v.clone() for k, v in meta.learner_.state_dict().items()}
    model = meta.adapted_
    return {
        "weights": weights,
        "predictions": np.asarray(meta.predict(query)),
        "model": np.asarray(model.predict(query)),
        "n_iter": meta.n_iter_,
        "history": len(meta.history_),
        "width": meta.n_features_in_,
    }


def assert_refused(meta, call, match, error=ValueError):
    """`call` raises, and leaves learner, adapted model and predictions alone."""
    task = make_tasks(1, labels=None if not meta._classifies else ["a", "b", "c"])[0]
    meta.adapt(task.X, task.y)
    before, learner, adapted = snapshot(meta), meta.learner_, meta.adapted_
    params = meta.get_params()
    try:
        with pytest.raises(error, match=match):
            call(meta)
    finally:
        meta.set_params(**params)
    assert meta.learner_ is learner
    assert meta.adapted_ is adapted
    after = snapshot(meta)
    for name, value in before.pop("weights").items():
        assert torch.equal(value, after["weights"][name])
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])


# What fit, partial_fit and score take -------------------------------------------------


@pytest.mark.parametrize("verb", ["fit", "partial_fit", "score"])
class TestTasks:
    def test_empty_task_list(self, regressor, verb):
        assert_refused(regressor, lambda m: getattr(m, verb)([]), "There are no tasks")

    def test_rows_without_groups(self, regressor, verb):
        X, y, _ = with_cell(0.0)
        assert_refused(
            regressor,
            lambda m: getattr(m, verb)(X, y),
            r"groups=task_ids.*enable_metadata_routing.*ClassPool\(X, y\)",
        )

    @pytest.mark.parametrize(
        ("value", "match"),
        [
            (np.nan, r"X contains NaN \(task 'shop1', row 5; 1 rows"),
            (np.inf, r"X contains infinity \(task 'shop1', row 5"),
            (-np.inf, r"X contains infinity \(task 'shop1', row 5"),
            ("red", r"string to float: column 1 of X holds 'red' \(task 'shop1', row"),
        ],
    )
    def test_cell_that_is_no_number(self, regressor, verb, value, match):
        X, y, groups = with_cell(value)
        assert_refused(
            regressor, lambda m: getattr(m, verb)(X, y, groups=groups), match
        )

    def test_opposite_infinities_do_not_cancel(self, regressor, verb):
        X, y, groups = with_cell(np.inf)
        X[3, 0] = -np.inf
        assert_refused(
            regressor,
            lambda m: getattr(m, verb)(X, y, groups=groups),
            r"X contains infinity \(task 'shop0', row 3; 2 rows",
        )

    def test_text_column_of_a_frame(self, regressor, verb):
        X, y, groups = with_cell(0.0)
        frame = pd.DataFrame(X, columns=["price", "colour", "size"])
        frame["colour"] = "red"
        # Position, not label, must name the task.
        frame.index = frame.index[::-1]
        tasks = TaskSet.from_arrays(frame, y, groups)
        match = (
            r"column 'colour' of X holds 'red' \(task 'shop0', row 0\).*OneHotEncoder"
        )
        with pytest.raises(ValueError, match=match):
            MAMLRegressor(**QUICK).fit(tasks)
        frame["colour"] = pd.Timestamp("2026-01-01")
        with pytest.raises(ValueError, match="could not convert Timestamp to float"):
            MAMLRegressor(**QUICK).fit(TaskSet.from_arrays(frame, y, groups))

    @pytest.mark.parametrize(
        ("value", "match"),
        [
            (np.nan, r"y contains NaN \(task 'shop1', row 5"),
            (np.inf, r"y contains infinity \(task 'shop1', row 5"),
            ("many", r"string to float: y holds 'many' \(task 'shop1', row 5"),
        ],
    )
    def test_target_that_is_no_number(self, regressor, verb, value, match):
        X, y, groups = with_cell(0.0)
        y = y.astype(object if isinstance(value, str) else float)
        y[17] = value
        assert_refused(
            regressor, lambda m: getattr(m, verb)(X, y, groups=groups), match
        )

    def test_missing_label(self, shared, verb):
        X, _, groups = with_cell(0.0)
        y = np.array(["a", "b", "c"] * 32, dtype=object)
        y[17] = None
        assert_refused(
            shared,
            lambda m: getattr(m, verb)(X, y, groups=groups),
            r"y contains NaN \(task 'shop1', row 5\)",
        )

    def test_y_of_wrong_length(self, regressor, verb):
        X, y, groups = with_cell(0.0)
        assert_refused(
            regressor,
            lambda m: getattr(m, verb)(X, y[:-1], groups=groups),
            "X has 96 rows but y has 95",
        )
        pairs = [(X[:5], y[:5]), (X[:5], y[:4])]
        assert_refused(
            regressor, lambda m: getattr(m, verb)(pairs), "X has 5 rows but y has 4"
        )

    def test_widths_that_differ_between_tasks(self, regressor, verb):
        tasks = [
            Task(np.ones((6, 3)), np.ones(6), "Lyon"),
            Task(np.ones((6, 2)), np.ones(6), "Nice"),
        ]
        assert_refused(regressor, lambda m: getattr(m, verb)(tasks), "'Lyon'.*'Nice'")

    def test_images_of_different_shapes(self, regressor, verb):
        tasks = [
            Task(np.ones((6, 8, 8)), np.ones(6), "Lyon"),
            Task(np.ones((6, 9, 8)), np.ones(6), "Nice"),
        ]
        assert_refused(regressor, lambda m: getattr(m, verb)(tasks), "'Lyon'.*'Nice'")

    def test_class_pool_for_a_regressor(self, regressor, verb):
        pool = ClassPool(np.ones((6, 3)), [0, 0, 0, 1, 1, 1])
        assert_refused(
            regressor, lambda m: getattr(m, verb)(pool), "is a regressor; a ClassPool"
        )

    def test_several_outputs_for_a_classifier(self, shared, verb):
        X, _, groups = with_cell(0.0)
        y = np.zeros((96, 2), dtype=int)
        assert_refused(
            shared,
            lambda m: getattr(m, verb)(X, y, groups=groups),
            r"y of a classifier must have one axis, got shape \(96, 2\)",
        )

    @pytest.mark.parametrize(
        ("parameter", "value", "match"),
        [
            ("inner_steps", -1, "inner_steps == -1, must be >= 0"),
            ("inner_steps", 1.5, "inner_steps must be an instance of"),
            ("inner_lr", -0.1, "inner_lr == -0.1, must be > 0"),
            ("inner_lr", np.inf, "inner_lr must be finite"),
            ("outer_lr", 0, "outer_lr == 0, must be > 0"),
            ("optimizer", "lion", r"optimizer must be one of \['adam'.*got 'lion'"),
            ("optimizer", ["adam"], r"optimizer must be one of .*got \['adam'\]"),
            ("device", "cuda:99", "device='cuda:99' is not available here"),
            ("device", "abacus", "device='abacus' is not available here"),
            ("n_shot", 0, "n_shot must be at least 1"),
            ("n_shot", "many", "n_shot must be an int or a"),
            ("n_way", 3, "n_way=3 draws classes"),
            ("small_tasks", "keep", "small_tasks must be one of .*got 'keep'"),
            ("support_order", "last", "support_order must be one of"),
            ("normalize_y", "tasks", "normalize_y must be one of"),
            ("normalize_x", "task", r"normalize_x must be one of \[True, False\]"),
            ("first_order", "yes", r"first_order must be one of \[True, False\]"),
            ("batch_size", True, "batch_size must be an integer"),
            ("image_shape", (8,), r"image_shape must be \(H, W\)"),
            ("callbacks", "print", "callbacks must be a list, got 'print'"),
            ("callbacks", [3], "callbacks must hold skorch callbacks.* got 3"),
        ],
    )
    def test_parameter(self, regressor, verb, parameter, value, match):
        assert_refused(
            regressor,
            lambda m: getattr(m.set_params(**{parameter: value}), verb)(make_tasks()),
            match,
            (ValueError, TypeError),
        )


@pytest.mark.parametrize("verb", ["partial_fit", "score", "warm_start"])
def test_other_rows_than_in_meta_training(regressor, verb):
    def call(meta, tasks):
        if verb == "warm_start":
            return meta.set_params(warm_start=True).fit(tasks)
        return getattr(meta, verb)(tasks)

    wide = make_tasks(n_features=4)
    match = "X has 4 features, but MAMLRegressor is expecting 3 features as input"
    assert_refused(regressor, lambda m: call(m, wide), match)
    images = [(np.ones((6, 3, 3)), np.ones(6))]
    match = r"rows of shape \(3, 3\), but MAMLRegressor was meta-trained on .* \(3,\)"
    assert_refused(regressor, lambda m: call(m, images), match)
    X, y, groups = with_cell(0.0)
    two = TaskSet.from_arrays(X, np.stack([y, y], 1), groups)
    assert_refused(regressor, lambda m: call(m, two), "y has 2 outputs, but .* on 1")


@pytest.mark.parametrize("verb", ["partial_fit", "score"])
def test_other_labels_than_in_meta_training(shared, verb):
    tasks = make_tasks(labels=["a", "d"])
    match = r"y of task 'shop0' holds labels .* never had: \['d'\]"
    assert_refused(shared, lambda m: getattr(m, verb)(tasks), match)
    pool = ClassPool(*with_cell(0.0)[:1], np.arange(96) % 4)
    match = "share the labels .* and a ClassPool has labels of its own"
    assert_refused(shared, lambda m: getattr(m, verb)(pool), match)
    own = make_tasks(labels=["a", "b"], n_tasks=3)
    own = TaskSet(own, labels="local")
    assert_refused(shared, lambda m: getattr(m, verb)(own), "labels='local' has labels")


def test_validation_tasks_of_other_width_or_columns():
    meta = MAMLRegressor(**QUICK)
    wide = ValidationTasks(make_tasks(n_features=4))
    with pytest.raises(ValueError, match=r"rows of shape \(4,\).* on .*\(3,\)"):
        meta.fit(make_tasks(), validation_tasks=wide)
    X, y, groups = with_cell(0.0)
    frame = pd.DataFrame(X, columns=["p", "q", "r"])
    tasks = TaskSet.from_arrays(frame, y, groups)
    swapped = TaskSet.from_arrays(frame[["q", "p", "r"]], y, groups)
    with pytest.raises(ValueError, match=r"columns \['q', 'p', 'r'\].* on \['p', 'q'"):
        meta.fit(tasks, validation_tasks=swapped)
    assert not hasattr(meta, "learner_")


def test_one_class_only():
    meta = ProtoNetClassifier(**QUICK)
    with pytest.raises(ValueError, match=r"at least 2 classes .* only one class: 'a'"):
        meta.fit(make_tasks(labels=["a"]))
    with pytest.raises(ValueError, match="ClassPool of at least 2 classes, got 1"):
        meta.fit(ClassPool(np.ones((5, 2)), ["a"] * 5))
    with pytest.raises(ValueError, match=r"2 classes of 1 .* Give more classes"):
        meta.fit(TaskSet(make_tasks(labels=["a"]), labels="local"))


def test_labels_that_no_two_tasks_share():
    X = np.random.default_rng(0).normal(size=(40, 2))
    groups = np.repeat([0, 1], 20)
    y = np.arange(40) % 2 + 2 * groups
    with pytest.raises(ValueError, match=r"No two of the 2 tasks .* labels='local'"):
        MAMLClassifier(**QUICK).fit(X, y, groups=groups)


def test_labels_of_several_types_and_numbers_that_are_no_labels():
    X, y, groups = with_cell(0.0)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        MAMLClassifier(**QUICK).fit(X, y, groups=groups)
    mixed = np.array(["a", 1, 2] * 32, dtype=object)
    with pytest.raises(ValueError, match=r"different types .* holds \['int', 'str'\]"):
        MAMLClassifier(**QUICK).fit(X, mixed, groups=groups)


@pytest.mark.parametrize("labels", [None, ["a", "b"]])
def test_tasks_with_too_few_rows(labels):
    estimator = MAMLRegressor if labels is None else MAMLClassifier
    big, small = make_tasks(6, labels=labels), make_tasks(2, 4, labels=labels, seed=1)
    names = [f"big{i}" for i in range(6)] + ["tiny", "little"]
    tasks = TaskSet(
        Task(task.X, task.y, name)
        for task, name in zip([*big, *small], names, strict=True)
    )
    with pytest.raises(ValueError, match=r"'tiny'.* 4 rows"):
        estimator(**QUICK, n_shot=5, small_tasks="raise").fit(tasks)
    with pytest.warns(SmallTaskWarning, match=r"^2 ") as shrunk:
        estimator(**QUICK, n_shot=5, small_tasks="shrink").fit(tasks)
    assert len(shrunk) == 1
    with pytest.warns(SmallTaskWarning, match=r"^2 ") as dropped:
        estimator(**QUICK, n_shot=5, small_tasks="drop").fit(tasks)
    assert len(dropped) == 1
    with pytest.raises(ValueError, match="n_shot"):
        estimator(**QUICK, n_shot=50, small_tasks="drop").fit(tasks)


# Backbones ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "match"),
    [
        (nn.Linear(7, 2), r"fails on a batch of shape \(2, 3\)"),
        (nn.Unflatten(1, (3, 1)), r"shape \(2, 3, 1\); expected \(2, n_features\)"),
        (lambda shape: "net", "must return a torch.nn.Module"),
        ("resnet", "only backbone with a name is 'identity'"),
        (3, "backbone must be a torch.nn.Module"),
        (nn.LazyLinear(3), "lazy layers"),
    ],
)
def test_backbone_that_does_not_fit(regressor, backbone, match):
    assert_refused(
        regressor,
        lambda m: m.set_params(backbone=backbone).fit(make_tasks()),
        match,
        (ValueError, TypeError),
    )


def test_outputs_of_a_backbone_without_head():
    tasks = make_tasks(labels=["a", "b", "c"])
    meta = MAMLClassifier(nn.Linear(3, 5), head="none", **QUICK)
    with pytest.raises(ValueError, match="it gives 5, and the tasks need 3"):
        meta.fit(tasks)
    with pytest.raises(ValueError, match="it gives 5, and the tasks need one for each"):
        meta.fit(TaskSet(tasks, labels="local"))
    assert meta.set_params(backbone=nn.Linear(3, 3)).fit(tasks).score(tasks) > 0
    with pytest.raises(ValueError, match="it gives 2, and the tasks need 1"):
        MAMLRegressor(nn.Linear(3, 2), head="none", **QUICK).fit(make_tasks())


# What adapt and predict take ----------------------------------------------------------


def test_order_of_verbs():
    meta, task = MAMLRegressor(**QUICK), make_tasks(1)[0]
    for call in (
        lambda: meta.adapt(task.X, task.y),
        lambda: meta.predict(task.X),
        lambda: meta.score(make_tasks()),
        lambda: meta.predict_tasks([task], [task.X]),
    ):
        with pytest.raises(NotFittedError):
            call()
    meta.fit(make_tasks())
    with pytest.raises(NotFittedError, match=r"not adapted to a task yet. Call adapt"):
        meta.predict(task.X)
    with pytest.raises(NotFittedError, match="not adapted to a task yet"):
        MAMLClassifier(**QUICK).fit(make_tasks(labels=["a", "b"])).predict_proba(task.X)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda X, y: (X[:, :2], y), "X has 2 features, but .* is expecting 3"),
        (lambda X, y: (X, y[:-1]), "inconsistent numbers of samples"),
        (lambda X, y: (X[0], y[:1]), "Expected 2D array, got 1D array"),
        (lambda X, y: (X[:0], y[:0]), r"0 sample\(s\)"),
        (lambda X, y: (np.where(X > 0, np.nan, X), y), "X contains NaN"),
        (lambda X, y: (np.where(X > 0, np.inf, X), y), "X contains infinity"),
        (lambda X, y: (np.where(X > 0, 1e300, X), y), "too large for dtype"),
        (lambda X, y: (X.astype(str).astype(object) + "x", y), "string to float"),
        (lambda X, y: (X, np.where(y > 0, np.nan, y)), "y contains NaN"),
        (lambda X, y: (X, np.stack([y, y], 1)), "y has 2 outputs, but .* on 1"),
        (lambda X, y: (X, y.astype(str).astype(object) + "x"), "string to float"),
        (lambda X, y: (X, None), "requires y"),
    ],
)
def test_support_rows(regressor, change, match):
    task = make_tasks(1)[0]
    X, y = change(task.X, task.y)
    assert_refused(regressor, lambda m: m.adapt(X, y), match)
    few_shot = FewShotRegressor(regressor).fit(task.X, task.y)
    before = few_shot.predict(task.X)
    with pytest.raises(ValueError, match=match):
        few_shot.fit(X, y)
    np.testing.assert_array_equal(few_shot.predict(task.X), before)


def test_query_rows(regressor):
    task = make_tasks(1)[0]
    match = "X has 2 features, but FewShotRegressor is expecting 3"
    assert_refused(regressor, lambda m: m.predict(task.X[:, :2]), match)
    assert_refused(regressor, lambda m: m.predict(task.X * np.nan), "X contains NaN")
    match = "X has 2 features, but MAMLRegressor is expecting 3"
    pairs = [Task(task.X, task.y, "Lyon")]
    assert_refused(regressor, lambda m: m.predict_tasks(pairs, [task.X[:, :2]]), match)
    match = r"X contains NaN \(task 'Lyon', row 0"
    assert_refused(
        regressor, lambda m: m.predict_tasks(pairs, [task.X * np.nan]), match
    )
    match = "got 1 support tasks and 2 entries of query_Xs"
    assert_refused(regressor, lambda m: m.predict_tasks(pairs, [task.X, task.X]), match)


def test_labels_that_meta_training_never_saw(shared):
    X = make_tasks(1)[0].X
    match = r"never had: \['z'\]; they had \['a', 'b', 'c'\].*labels='local'"
    y = np.array(["a", "b", "z"] * 4)
    assert_refused(shared, lambda m: m.adapt(X, y), match)
    # Ranks are for wrappers that encode labels, not for adapt.
    match = r"never had: \[0, 1, 2\]"
    assert_refused(shared, lambda m: m.adapt(X, np.arange(12) % 3), match)
    match = r"y of task 'Nice' holds labels .* never had: \['z'\]"
    tasks = [Task(X, np.array(["a", "b", "c"] * 4), "Lyon"), Task(X, y, "Nice")]
    assert_refused(shared, lambda m: m.predict_tasks(tasks, [X, X]), match)
    few_shot = FewShotClassifier(shared).fit(X, tasks[0].y)
    before = few_shot.predict(X)
    with pytest.raises(ValueError, match=r"never had: \['z'\]"):
        few_shot.fit(X, y)
    np.testing.assert_array_equal(few_shot.predict(X), before)


def test_number_labels_are_not_ranks_in_adapt():
    meta = ProtoNetClassifier(**QUICK).fit(make_tasks(labels=[1, 2]))
    X = make_tasks(1)[0].X
    assert meta.adapt(X, np.ones(12, dtype=int)).predict(X).tolist() == [1] * 12
    with pytest.raises(ValueError, match=r"never had: \[0\]"):
        meta.adapt(X, np.arange(12) % 2)


def test_images_at_adapt():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(48, 4, 4), dtype=np.uint8)
    pool = ClassPool(images, np.arange(48) % 6)
    meta = ProtoNetClassifier("identity", n_shot=2, **QUICK).fit(pool)
    y = np.arange(8) % 2
    with pytest.raises(ValueError, match=r"rows of shape \(5, 4\).* on .* \(4, 4\)"):
        meta.adapt(np.zeros((8, 5, 4), dtype=np.uint8), y)
    with pytest.raises(ValueError, match=r"uint8 images.*float64 up to 255"):
        meta.adapt(np.full((8, 4, 4), 255.0), y)
    on_floats = ProtoNetClassifier("identity", n_shot=2, **QUICK)
    on_floats.fit(ClassPool(images / 255, np.arange(48) % 6))
    with pytest.raises(ValueError, match=r"uint8 images, but .* on other numbers"):
        on_floats.adapt(images[:8], y)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.array(["a", None] * 6, dtype=object), "y contains NaN"),
        (np.array(["a", np.nan] * 6, dtype=object), "y contains NaN"),
        (pd.Series(["a", pd.NA] * 6, dtype="string"), "y contains NaN"),
        (pd.Series([1, pd.NA] * 6, dtype="Int64"), "y contains NaN"),
        (np.array(["a", 1] * 6, dtype=object), r"different types .*\['int', 'str'\]"),
    ],
)
def test_labels_that_cannot_be_sorted_at_adapt(shared, local, labels, match):
    X = make_tasks(1)[0].X
    assert_refused(shared, lambda m: m.adapt(X, labels), match)
    assert_refused(local, lambda m: m.adapt(X, labels), match)


def test_tasks_where_rows_are_expected(regressor):
    tasks = make_tasks(2)
    task = tasks[0]
    match = r"Expected rows, got .*adapt\(task.X, task.y\)"
    for X in (task, tasks, ClassPool(task.X, np.arange(12) % 2)):
        assert_refused(regressor, lambda m, X=X: m.adapt(X, task.y), match, TypeError)
        assert_refused(regressor, lambda m, X=X: m.predict(X), match, TypeError)
    match = "query_Xs holds tasks, expected their rows"
    for queries in (tasks, list(tasks)):
        assert_refused(
            regressor,
            lambda m, queries=queries: m.predict_tasks(tasks, queries),
            match,
            TypeError,
        )


@pytest.mark.parametrize("classes", [[], ["a", "b", None], ["a", "b", np.nan]])
def test_lists_of_classes_that_are_none(classes):
    classes = np.array(classes, dtype=object)
    with pytest.raises(ValueError, match="classes must list the shared labels"):
        MAMLClassifier(**QUICK).partial_fit(
            make_tasks(labels=["a", "b"]), classes=classes
        )


# Divergence ---------------------------------------------------------------------------


def test_inner_learning_rate_that_diverges_in_meta_training(regressor):
    assert_refused(
        regressor,
        lambda m: m.set_params(inner_lr=1e6).fit(make_tasks()),
        r"Lower inner_lr \(now 1000000.0\) or outer_lr \(now 0.001\)",
        MetaTrainingError,
    )
    assert_refused(
        regressor,
        lambda m: m.set_params(inner_lr=1e6).partial_fit(make_tasks()),
        r"Lower inner_lr",
        MetaTrainingError,
    )


def test_inner_learning_rate_that_diverges_at_adapt(regressor):
    tasks = make_tasks(3)
    match = r"Lower inner_lr \(now 1000000.0\), or check the scale of X and y"
    for call in (
        lambda m: m.adapt(tasks[0].X, tasks[0].y),
        lambda m: m.predict_tasks(tasks, [task.X for task in tasks]),
        lambda m: m.score(tasks),
    ):
        assert_refused(
            regressor,
            lambda m, call=call: call(m.set_params(inner_lr=1e6, inner_steps=20)),
            match,
            MetaTrainingError,
        )


def test_outer_learning_rate_that_diverges():
    meta = ProtoNetClassifier(
        outer_lr=1e30, optimizer="sgd", max_iter=50, random_state=0
    )
    with pytest.raises(MetaTrainingError, match=r"Lower outer_lr \(now 1e\+30\)"):
        meta.fit(make_tasks(labels=["a", "b", "c"]))
    assert not hasattr(meta, "learner_")


def test_prediction_that_overflows_is_no_silent_nan():
    rng = np.random.default_rng(0)
    images = rng.random(size=(48, 4, 4))
    pool = ClassPool(images, np.arange(48) % 6)
    meta = ProtoNetClassifier("identity", n_shot=2, **QUICK).fit(pool)
    model = meta.adapt(images[:8], np.arange(8) % 2)
    with pytest.raises(MetaTrainingError, match="scale of X"):
        model.predict_proba(images[:2] * 1e30)


# Few-shot estimators ------------------------------------------------------------------


def test_meta_that_is_none_or_not_meta_trained(regressor):
    task = make_tasks(1)[0]
    with pytest.raises(TypeError, match="must be a meta-trained sklmeta estimator"):
        FewShotRegressor().fit(task.X, task.y)
    with pytest.raises(NotFittedError, match=r"not meta-trained.*\{'meta': \[a, b\]\}"):
        FewShotRegressor(MAMLRegressor()).fit(task.X, task.y)
    with pytest.raises(NotFittedError):
        FewShotRegressor(regressor).predict(task.X)


def test_missing_classes(shared):
    X, y = make_tasks(1)[0].X, np.array(["a", "b"] * 6)
    few_shot = FewShotClassifier(shared)
    with pytest.raises(ValueError, match=r"y holds 2 classes, \['a', 'b'\].* had 3"):
        few_shot.fit(X, y)
    with pytest.raises(ValueError, match="missing_classes must be one of"):
        few_shot.set_params(missing_classes="ignore").fit(X, y)
    allowed = few_shot.set_params(missing_classes="allow").fit(X, y)
    assert allowed.classes_.tolist() == ["a", "b", "c"]


def test_failing_refit_with_another_meta_keeps_the_model(regressor):
    task = make_tasks(1)[0]
    few_shot = FewShotRegressor(regressor).fit(task.X, task.y)
    before = few_shot.predict(task.X)
    wide = MAMLRegressor(**QUICK).fit(make_tasks(n_features=4))
    with pytest.raises(ValueError, match="is expecting 4 features"):
        few_shot.set_params(meta=wide).fit(task.X, task.y)
    assert few_shot.n_features_in_ == 3
    np.testing.assert_array_equal(few_shot.predict(task.X), before)


def test_sample_weight_is_refused(regressor):
    assert_refused(
        regressor,
        lambda m: m.score(make_tasks(), sample_weight=np.ones(8)),
        "sample_weight is not supported",
    )


class TestTasksWhereRowsAreExpected:
    def test_a_stock_pipeline_names_ours(self):
        tasks = make_sinusoids(5, random_state=0)
        pipeline = make_pipeline(StandardScaler(), MAMLRegressor())
        with pytest.raises(TypeError, match=r"is no row.*make_meta_pipeline"):
            pipeline.fit(tasks)

    @pytest.mark.parametrize("make", [lambda m: m, make_meta_pipeline])
    def test_adapting_to_a_task(self, make):
        tasks = make_sinusoids(5, random_state=0)
        meta = make(MAMLRegressor(max_iter=1, random_state=0)).fit(tasks)
        with pytest.raises(TypeError, match=r"adapt\(task.X, task.y\)"):
            meta.adapt(tasks[0])
        with pytest.raises(ValueError, match="requires y"):
            meta.adapt(tasks[0].X)

    def test_labels_for_a_regressor(self):
        pairs = [([[0.0], [1.0]], ["a", "b"])] * 3
        with pytest.raises(ValueError, match="Labels are for classifiers"):
            MAMLRegressor().fit(pairs)

    def test_a_frame_of_another_library(self):
        class Frame:
            def to_pandas(self):
                raise AssertionError("not asked for")

        with pytest.raises(TypeError, match=r"got a Frame of another.*to_pandas\(\)"):
            TaskSet.from_frame(Frame(), target="y", task="task")


def test_training_that_ends_worse_than_it_began_is_warned_of():
    tasks = make_sinusoids(40, random_state=0)
    meta = ANILRegressor(inner_lr=5.0, max_iter=20, random_state=0)
    message = r"mean query loss of \d.*worse than none\. Lower inner_lr \(now 5\.0\)"
    with pytest.warns(ConvergenceWarning, match=message):
        meta.fit(tasks)
    # In units of a few support rows no loss is large for sure.
    meta.set_params(normalize_y="task").fit(tasks)


@pytest.mark.parametrize(
    ("shape", "is_odd"),
    [
        *(((3, 16, 16), True), ((1, 8, 8), True), ((3, 50, 2), False)),
        *(((16, 16, 3), False), ((8, 8), False)),
    ],
)
def test_images_in_torchs_order_are_warned_of(shape, is_odd):
    X = np.random.default_rng(0).random((24, *shape))
    pool = ClassPool(X, np.repeat(np.arange(4), 6))
    meta = ProtoNetClassifier("identity", n_way=2, n_shot=1, n_query=2, max_iter=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        meta.fit(pool)
    odd = [w for w in caught if "X.transpose(0, 2, 3, 1)" in str(w.message)]
    assert len(odd) == is_odd
    assert all(one.filename == __file__ for one in odd)
