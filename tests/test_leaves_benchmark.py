"""The benchmark on leaves: it chooses on training species, and becomes a section."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.base import clone

from sklmeta import ClassPool


def histograms(n_species=100, n_leaves=4, n_views=1):
    """Return leaves whose histograms are drawn about one of their species."""
    rng = np.random.default_rng(0)
    species = rng.dirichlet(np.ones(64), (n_species, n_views))
    X = np.stack([rng.multinomial(300, own, (n_leaves, n_views)) for own in species])
    y = np.repeat([f"species {i:02}" for i in range(n_species)], n_leaves)
    return ClassPool(X.reshape(len(y), -1) / 300, y)


def test_chooses_on_training_species(script, tmp_path, monkeypatch, capsys):
    leaves = script("leaves")
    pool = histograms()
    monkeypatch.setattr(leaves, "fetch_leaves100", lambda view, data_home: pool)
    seen = []
    search = leaves.GridSearchCV.fit
    monkeypatch.setattr(
        leaves.GridSearchCV,
        "fit",
        lambda self, X: seen.append(set(X.classes)) or search(self, X),
    )
    options = ["--views", "margin", "--updates", "1", "--choosing-episodes", "3"]
    options += ["--episodes", "4", "--other-episodes", "3", "--other-divisions", "1"]
    folder = tmp_path / "results"
    leaves.main([*options, "--threads", "1", "--output", str(folder)])
    train, test = leaves.divided(pool, 0)
    assert seen == [set(train.classes)]
    assert (len(train), len(test)) == (70, 30)
    assert not set(train.classes) & set(test.classes)
    (found,) = json.loads((folder / "leaves.json").read_text())["results"]
    means = {name: own["mean"] for name, own in found["candidates"].items()}
    assert means[found["chosen"]] == max(means.values())
    script("report").main(["--results", str(folder)])
    assert found["chosen"] in (tmp_path / "RESULTS.md").read_text()


@pytest.mark.parametrize("n_views", [1, 3])
def test_roots_have_distances_of_histograms(script, n_views):
    pool = histograms(5, n_views=n_views)
    X = pool.X.copy()
    X[:, 0] = 0  # a bin that is empty in all
    scaler = script("leaves").RootScaler().fit(X)
    roots = cdist(np.sqrt(X[:, :64]), np.sqrt(X[:, :64]))
    found = cdist(scaler.transform(X)[:, :64], scaler.transform(X)[:, :64])
    np.testing.assert_allclose(found * scaler.scale_[0], roots, atol=1e-12)
    assert scaler.transform(X).var(axis=0).sum() == pytest.approx(64 * n_views)
    by_column = script("leaves").RootScaler("column").fit_transform(X)
    np.testing.assert_allclose(by_column[:, 1:].std(axis=0), 1)


def test_an_ensemble_compares_features_of_all_members(script):
    leaves = script("leaves")
    pool = histograms(25)
    member = leaves.ProtoNetClassifier(
        leaves.functools.partial(leaves.for_rows, leaves.wide),
        **{"n_way": 3, "n_shot": 1, "n_query": 1, "max_iter": 2, "normalize_x": False},
    )
    ensemble = leaves.Ensemble(member, n_members=2)
    rows, labels = pool[20:].X, pool[20:].y
    few = clone(ensemble).fit(pool[:20]).adapt(rows, labels)
    distances = 0
    for seed in range(2):
        own = clone(member).set_params(random_state=seed).fit(pool[:20])
        own = own.adapt(rows, labels).predict_proba(rows)
        distances = distances - np.log(own)
    expected = np.exp(-distances)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(few.predict_proba(rows), expected, atol=1e-5)
