"""How estimators show themselves in notebooks: scikit-learn's HTML, nested ones too."""

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from sklmeta import (
    FewShotClassifier,
    FewShotRegressor,
    MAMLClassifier,
    MAMLRegressor,
    PerTaskClassifier,
    PooledRegressor,
    ProtoNetClassifier,
    TaskTransformer,
    make_meta_pipeline,
)
from sklmeta.backbones import MLP
from sklmeta.datasets import load_digits_pool, make_sinusoids
from sklmeta.model_selection import TaskKFold

WAVES = make_sinusoids(12, random_state=0)
QUICK = {"max_iter": 2, "batch_size": 4, "random_state": 0}


@pytest.fixture(scope="module")
def regressor():
    return MAMLRegressor(**QUICK).fit(WAVES)


@pytest.fixture(scope="module")
def classifier():
    return ProtoNetClassifier(**QUICK, n_way=3, n_shot=1).fit(load_digits_pool())


@pytest.mark.parametrize(
    ("estimator", "named"),
    [
        (MAMLRegressor(inner_lr=0.125), ["MAMLRegressor", "0.125", "Not fitted"]),
        (MAMLClassifier(MLP(3)), ["MAMLClassifier", "MLP"]),
        (ProtoNetClassifier("identity"), ["ProtoNetClassifier", "identity"]),
        (PooledRegressor(StandardScaler()), ["PooledRegressor", "StandardScaler"]),
        (PerTaskClassifier(), ["PerTaskClassifier"]),
        (TaskTransformer(StandardScaler()), ["TaskTransformer", "StandardScaler"]),
        (
            make_meta_pipeline(StandardScaler(), MAMLRegressor()),
            ["MetaPipeline", "StandardScaler", "MAMLRegressor"],
        ),
        (
            GridSearchCV(MAMLRegressor(), {"inner_lr": [0.5]}, cv=TaskKFold(2)),
            ["GridSearchCV", "MAMLRegressor"],
        ),
        (FewShotRegressor(MAMLRegressor()), ["FewShotRegressor", "MAMLRegressor"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_before_fit(estimator, named):
    html = estimator_html_repr(estimator)
    for name in named:
        assert name in html
    assert estimator._repr_html_() is not None
    assert clone(estimator)._repr_mimebundle_()["text/html"]


def test_fitted_meta_learners_say_so(regressor, classifier):
    for meta in (regressor, classifier):
        html = estimator_html_repr(meta)
        assert type(meta).__name__ in html
        assert "Not fitted" not in html
        assert "fitted" in html


def test_few_shot_estimators_show_their_meta_learner(regressor, classifier):
    task = WAVES[0]
    adapted = regressor.adapt(task.X[:5], task.y[:5])
    pool = load_digits_pool()
    first = np.unique(pool.y, return_index=True)[1]
    models = {
        "FewShotRegressor": adapted,
        "FewShotClassifier": classifier.adapt(pool.X[first], pool.y[first]),
    }
    for name, model in models.items():
        html = estimator_html_repr(model)
        assert name in html
        assert type(model.meta).__name__ in html
        assert "Not fitted" not in html
    for few_shot in (FewShotRegressor(regressor), FewShotClassifier(classifier)):
        assert "Not fitted" in estimator_html_repr(few_shot)


def test_inside_other_estimators(regressor):
    pipeline = make_pipeline(StandardScaler(), FewShotRegressor(regressor))
    html = estimator_html_repr(pipeline)
    for name in ("Pipeline", "StandardScaler", "FewShotRegressor", "MAMLRegressor"):
        assert name in html


def test_text_where_diagrams_are_switched_off(regressor):
    with sklearn.config_context(display="text"):
        assert "text/html" not in regressor._repr_mimebundle_()
        assert repr(regressor) in regressor._repr_mimebundle_()["text/plain"]


def test_showing_an_estimator_changes_nothing(regressor):
    before = dict(vars(regressor))
    estimator_html_repr(regressor)
    after = vars(regressor)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
