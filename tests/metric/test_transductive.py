"""Refinement by all query rows: against plain loops, and what must not change."""

import pickle

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import ttest_1samp
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sklmeta import (
    ClassPool,
    FewShotClassifier,
    ProtoNetClassifier,
    TaskSet,
    TransductiveProtoNetClassifier,
)
from sklmeta.engine.batches import Rows
from sklmeta.metric import ProtoNet, TransductiveProtoNet

REFINEMENTS = ["soft_kmeans", "laplacian", "mutual_information"]
IDENTITY = {"backbone": "identity", "normalize_x": False, "n_shot": 1}


def one_task(n_query=7, n_ways=3, n_features=2, seed=0):
    """Return support rows, their ways, and query rows of overlapping classes."""
    rng = np.random.default_rng(seed)
    ways = np.array([0, 0, 1, 2, 2, 2, 1])
    centres = rng.normal(size=(n_ways, n_features))
    support = centres[ways] + rng.normal(size=(len(ways), n_features))
    query = centres[rng.integers(n_ways, size=n_query)]
    return support, ways, query + rng.normal(size=query.shape)


def refined(learner, support, ways, query):
    """Return a learner's logits (Q, N) for one task."""
    rows = Rows(
        torch.from_numpy(support)[None],
        torch.from_numpy(ways)[None],
        torch.ones(1, len(ways), dtype=torch.bool),
        torch.tensor([ways.max() + 1]),
    )
    with torch.no_grad():
        logits = learner.predict(learner.adapt(rows), torch.from_numpy(query)[None])
    return logits[0].numpy()


def identity(refinement, n_steps, **options):
    return TransductiveProtoNet(
        torch.nn.Identity(),
        None,
        refinement=refinement,
        n_refinement_steps=n_steps,
        **options,
    )


def class_means(support, ways):
    return np.stack([support[ways == k].mean(axis=0) for k in range(ways.max() + 1)])


def logits_of(rows, prototypes, temperature=1.0):
    return -((rows[:, None] - prototypes) ** 2).sum(-1) / temperature


# Oracles: the papers' updates as plain loops.


@pytest.mark.parametrize("n_steps", [1, 4])
def test_soft_kmeans_is_that_of_the_paper(n_steps):
    support, ways, query = one_task()
    prototypes = class_means(support, ways)
    for _ in range(n_steps):
        z = softmax(logits_of(query, prototypes), axis=1)
        prototypes = np.stack(
            [
                (support[ways == k].sum(axis=0) + sum(z[:, k, None] * query))
                / ((ways == k).sum() + z[:, k].sum())
                for k in range(3)
            ]
        )
    found = refined(identity("soft_kmeans", n_steps), support, ways, query)
    np.testing.assert_allclose(found, logits_of(query, prototypes))


def test_laplacian_is_that_of_the_paper():
    support, ways, query = one_task(n_query=9)
    unary = logits_of(query, class_means(support, ways), temperature=2.0)
    y = softmax(unary, axis=1)
    for _ in range(3):
        votes = np.zeros_like(y)
        for q, row in enumerate(query):
            order = np.argsort(((query - row) ** 2).sum(1))
            for p in order[1:3]:  # two neighbours; the first is the row itself
                votes[q] += y[p]
        y = softmax(unary + 0.7 * votes, axis=1)
    learner = identity(
        "laplacian", 3, laplacian_weight=0.7, n_neighbors=2, temperature=2.0
    )
    found = softmax(refined(learner, support, ways, query), axis=1)
    np.testing.assert_allclose(found, y)


def test_mutual_information_is_that_of_the_paper():
    support, ways, query = one_task()
    y, w = np.eye(3)[ways], class_means(support, ways)
    weight, alpha = 0.3, 0.2
    for _ in range(3):
        p = softmax(logits_of(query, w, 0.5), axis=1)
        p_support = softmax(logits_of(support, w, 0.5), axis=1)
        q = p ** (1 + alpha) / np.sqrt((p ** (1 + alpha)).sum(axis=0))
        q /= q.sum(axis=1, keepdims=True)
        moved = np.empty_like(w)
        for k in range(3):
            of_support = sum(
                y[i, k] * f + p_support[i, k] * (w[k] - f)
                for i, f in enumerate(support)
            )
            of_query = sum(
                q[i, k] * f + p[i, k] * (w[k] - f) for i, f in enumerate(query)
            )
            share = weight / (1 + alpha) / len(support)
            moved[k] = share * of_support + of_query / len(query)
            moved[k] /= share * y[:, k].sum() + q[:, k].sum() / len(query)
        w = moved
    learner = identity(
        "mutual_information",
        3,
        support_weight=weight,
        entropy_weight=alpha,
        temperature=0.5,
    )
    found = refined(learner, support, ways, query)
    np.testing.assert_allclose(found, logits_of(query, w, 0.5), rtol=1e-6)


def test_mutual_information_grows():
    support, ways, query = one_task(n_query=40)

    def information(logits):
        p = softmax(logits, axis=1)
        mean = p.mean(axis=0)
        return (p * np.log(p)).sum(1).mean() * 0.1 - (mean * np.log(mean)).sum()

    values = [
        information(refined(identity("mutual_information", n), support, ways, query))
        for n in (0, 10, 150)
    ]
    assert values[0] < values[1] <= values[2] + 1e-3


# What refinement leaves alone.


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_without_steps_nothing_is_refined(refinement):
    support, ways, query = one_task()
    expected = refined(ProtoNet(torch.nn.Identity(), None), support, ways, query)
    found = refined(identity(refinement, 0), support, ways, query)
    np.testing.assert_array_equal(found, expected)
    if refinement == "laplacian":
        alone = identity(refinement, 5, laplacian_weight=0.0)
        found = refined(alone, support, ways, query)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_padded_support_rows_have_no_say(refinement):
    support, ways, query = one_task()
    learner = identity(refinement, 3)
    expected = refined(learner, support, ways, query)
    padded = Rows(
        torch.from_numpy(np.concatenate([support, 99 + support[:2]]))[None],
        torch.from_numpy(np.concatenate([ways, ways[:2]]))[None],
        torch.arange(len(ways) + 2)[None] < len(ways),
        torch.tensor([3]),
    )
    found = learner.predict(learner.adapt(padded), torch.from_numpy(query)[None])
    np.testing.assert_allclose(found[0].numpy(), expected)


def test_absent_classes_stay_absent():
    """Shared labels: a class without support rows is not found by refinement."""
    support, ways, query = one_task()
    kept = ways != 1
    rows = Rows(
        torch.from_numpy(support[kept])[None],
        torch.from_numpy(ways[kept])[None],
        torch.ones(1, kept.sum(), dtype=torch.bool),
    )
    for refinement in REFINEMENTS:
        learner = TransductiveProtoNet(
            torch.nn.Identity(), 3, refinement=refinement, n_refinement_steps=5
        )
        logits = learner.predict(learner.adapt(rows), torch.from_numpy(query)[None])
        assert (logits[0, :, 1] == -torch.inf).all()
        assert torch.isfinite(logits[0, :, [0, 2]]).all()


# The estimator.


def labelled_task(n_query=30, seed=0):
    support, ways, query = one_task(n_query=n_query, seed=seed)
    return support, np.array(["ash", "birch", "oak"])[ways], query


def fitted(refinement, labels="local", **options):
    tasks = TaskSet([labelled_task(seed=s)[:2] for s in range(1, 3)], labels=labels)
    options = {**IDENTITY, **options}
    return TransductiveProtoNetClassifier(refinement=refinement, **options).fit(tasks)


@pytest.mark.parametrize("labels", ["local", "shared"])
@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_predict_stays_inductive(refinement, labels):
    X, y, query = labelled_task()
    tasks = TaskSet([labelled_task(seed=s)[:2] for s in range(1, 3)], labels=labels)
    plain = ProtoNetClassifier(**IDENTITY).fit(tasks).adapt(X, y)
    meta = fitted(refinement, labels)
    adapted = meta.adapt(X, y)
    before = adapted.predict_proba(query)
    np.testing.assert_array_equal(before, plain.predict_proba(query))
    together = adapted.predict_proba_transductive(query)
    assert np.abs(together - before).max() > 0.01
    np.testing.assert_array_equal(adapted.predict_proba(query), before)
    np.testing.assert_allclose(together.sum(axis=1), 1)
    # Here and on the meta-learner, probabilities and labels agree.
    np.testing.assert_array_equal(meta.predict_proba_transductive(query), together)
    labels_found = adapted.classes_[together.argmax(axis=1)]
    assert adapted.predict_transductive(query).tolist() == labels_found.tolist()
    assert meta.predict_transductive(query).tolist() == labels_found.tolist()
    assert set(labels_found) <= {"ash", "birch", "oak"}


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_the_order_of_query_rows_does_not_matter(refinement):
    X, y, query = labelled_task()
    adapted = fitted(refinement).adapt(X, y)
    order = np.random.default_rng(0).permutation(len(query))
    expected = adapted.predict_proba_transductive(query)[order]
    found = adapted.predict_proba_transductive(query[order])
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_all_query_rows_count_however_many(refinement):
    """More of them than pass at once elsewhere."""
    X, y, query = labelled_task(n_query=1500)
    adapted = fitted(refinement).adapt(X, y)
    n_steps = {"soft_kmeans": 1, "laplacian": 20, "mutual_information": 150}
    expected = refined(
        identity(refinement, n_steps[refinement]),
        X,
        np.unique(y, False, True)[1],
        query,
    )
    found = adapted.predict_proba_transductive(query)
    # Rows come in single precision.
    np.testing.assert_allclose(found, softmax(expected, axis=1), atol=1e-5)


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_a_single_query_row_is_predicted(refinement):
    X, y, query = labelled_task()
    adapted = fitted(refinement).adapt(X, y)
    found = adapted.predict_proba_transductive(query[:1])
    assert np.isfinite(found).all()
    if refinement == "laplacian":
        np.testing.assert_array_equal(found, adapted.predict_proba(query[:1]))


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_one_class_is_certain(refinement):
    X, _, query = labelled_task()
    adapted = fitted(refinement).adapt(X, ["oak"] * len(X))
    assert (adapted.predict_proba_transductive(query) == 1).all()


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_pickles_predict_the_same(refinement):
    X, y, query = labelled_task()
    adapted = fitted(refinement).adapt(X, y)
    again = pickle.loads(pickle.dumps(adapted))
    expected = adapted.predict_proba_transductive(query)
    np.testing.assert_array_equal(again.predict_proba_transductive(query), expected)


def test_parameters_are_read_when_adapting():
    X, y, query = labelled_task()
    meta = fitted("soft_kmeans")
    adapted = meta.adapt(X, y)
    before = adapted.predict_proba_transductive(query)
    meta.set_params(refinement="mutual_information", n_refinement_steps=10)
    other = meta.adapt(X, y).predict_proba_transductive(query)
    assert np.abs(other - before).max() > 0.01
    np.testing.assert_array_equal(adapted.predict_proba_transductive(query), before)
    few_shot = clone(FewShotClassifier(meta))
    few_shot.set_params(meta__refinement="soft_kmeans", meta__n_refinement_steps=None)
    found = few_shot.fit(X, y).predict_proba_transductive(query)
    np.testing.assert_array_equal(found, before)


def test_images_are_refined_together():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(6, 1, 8, 8)) // 2
    X = (images + rng.integers(0, 128, size=(6, 12, 8, 8))).astype(np.uint8)
    X, y = X.reshape(-1, 8, 8), np.repeat(np.arange(6), 12)
    meta = TransductiveProtoNetClassifier(
        n_way=3, n_shot=1, n_query=3, max_iter=3, random_state=0, device="cpu"
    ).fit(ClassPool(X, y))
    adapted = meta.adapt(X[::6], y[::6])
    assert adapted.predict_transductive(X).shape == (72,)
    with pytest.raises(ValueError, match="8, 8"):
        adapted.predict_transductive(X[:, :6, :6])


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_many_query_rows_help_where_classes_overlap(refinement):
    """One support row a class and many query rows: paired gain over 40 tasks."""
    meta = TransductiveProtoNetClassifier(
        refinement=refinement, temperature=4.0, **IDENTITY
    )
    gains = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(3, 16))
        ways = np.repeat([0, 1, 2], 30)
        query = centres[ways] + rng.normal(size=(90, 16))
        support = centres + rng.normal(size=(3, 16))
        if not seed:
            meta.fit(TaskSet([(query, ways)], labels="local"))
        adapted = meta.adapt(support, [0, 1, 2])
        together = adapted.predict_transductive(query) == ways
        alone = adapted.predict(query) == ways
        gains.append(together.mean() - alone.mean())
    assert np.mean(gains) > 0.02
    assert ttest_1samp(gains, 0, alternative="greater").pvalue < 0.001


def test_mutual_information_assumes_balanced_queries():
    """What the docstring warns of: here nearly all query rows are of one class."""
    meta, gains = fitted("mutual_information", temperature=4.0), []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        centres = np.array([[-1.5, 0], [1.5, 0], [0, 2.5]])
        ways = np.array([0] * 80 + [1] * 5 + [2] * 5)
        query = centres[ways] + rng.normal(size=(90, 2))
        adapted = meta.adapt(centres, [0, 1, 2])
        together = adapted.predict_transductive(query) == ways
        gains.append(together.mean() - (adapted.predict(query) == ways).mean())
    assert np.mean(gains) < 0


# Refusals.


def test_only_some_learners_predict_together():
    X, y, query = labelled_task()
    tasks = TaskSet([(X, y)], labels="local")
    plain = ProtoNetClassifier(**IDENTITY).fit(tasks).adapt(X, y)
    assert not hasattr(plain, "predict_transductive")
    assert not hasattr(plain, "predict_proba_transductive")
    with pytest.raises(AttributeError, match="predict_transductive"):
        plain.predict_transductive(query)


def test_before_adapt_there_is_nothing_to_refine():
    _, _, query = labelled_task()
    meta = fitted("soft_kmeans")
    with pytest.raises(NotFittedError, match="not adapted"):
        meta.predict_transductive(query)
    with pytest.raises(NotFittedError, match="not adapted"):
        meta.predict_proba_transductive(query)


def test_no_query_rows_are_refused():
    X, y, query = labelled_task()
    adapted = fitted("soft_kmeans").adapt(X, y)
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        adapted.predict_transductive(query[:0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refinement": "tim"}, "refinement must be one of .*'laplacian'.* got 'tim'"),
        ({"n_refinement_steps": -1}, "n_refinement_steps"),
        ({"n_neighbors": 0}, "n_neighbors"),
        ({"laplacian_weight": -0.1}, "laplacian_weight"),
        ({"support_weight": -1.0}, "support_weight"),
        ({"entropy_weight": float("nan")}, "entropy_weight"),
        (
            {"refinement": "mutual_information", "metric": "cosine"},
            "squared Euclidean distances, got metric='cosine'",
        ),
    ],
)
def test_unusable_parameters_are_refused(options, message):
    options = {"refinement": "soft_kmeans", **options}
    with pytest.raises(ValueError, match=message):
        fitted(**options)


@pytest.mark.parametrize("metric", ["cosine", "mahalanobis"])
@pytest.mark.parametrize("refinement", ["soft_kmeans", "laplacian"])
def test_other_metrics_are_refined_too(refinement, metric):
    X, y, query = labelled_task()
    adapted = fitted(refinement, metric=metric).adapt(X, y)
    together = adapted.predict_proba_transductive(query)
    assert np.isfinite(together).all()
    assert np.abs(together - adapted.predict_proba(query)).max() > 1e-3
