"""Inner rates: what they are, what they are called, and what the faces refuse."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sklmeta import (
    FewShotRegressor,
    MAMLClassifier,
    MAMLRegressor,
    MetaSGDRegressor,
    TaskSet,
)
from sklmeta.backbones import MLP
from sklmeta.datasets import make_sinusoids
from sklmeta.gradient import InnerRates
from sklmeta.gradient.inner_rates import rate_of_step

WAVES = make_sinusoids(20, random_state=0)
NEW = make_sinusoids(1, random_state=1)[0]
SHAPES = {"backbone.0.weight": (3, 2), "backbone.0.bias": (3,), "head.bias": ()}


def net(input_shape):
    return MLP(input_shape[0], (6,))


QUICK = {"backbone": net, "max_iter": 2, "batch_size": 4, "random_state": 0}
QUICK |= {"inner_steps": 2, "device": "cpu"}


def adapted(meta):
    return meta.adapt(NEW.X[:5], NEW.y[:5]).predict(NEW.X[5:])


@pytest.mark.parametrize(
    ("granularity", "n_rates"), [("shared", 1), ("layer", 3), ("parameter", 10)]
)
@pytest.mark.parametrize("n_steps", [1, 4])
def test_there_are_as_many_rates_as_they_are_for(granularity, n_rates, n_steps):
    rates = InnerRates(SHAPES, 0.5, granularity=granularity, n_steps=n_steps)
    assert sum(p.numel() for p in rates.parameters()) == n_rates * n_steps
    assert all((p == 0.5).all() for p in rates.parameters())


@pytest.mark.parametrize(
    ("granularity", "shapes"),
    [
        ("shared", {"all": (2,)}),
        ("layer", dict.fromkeys(SHAPES, (2,))),
        ("parameter", {name: (2, *shape) for name, shape in SHAPES.items()}),
    ],
)
def test_rates_by_name(granularity, shapes):
    rates = InnerRates(SHAPES, [0.5, 0.25], granularity=granularity, n_steps=2)
    found = rates.by_name()
    assert {name: tuple(rate.shape) for name, rate in found.items()} == shapes
    for rate in found.values():
        assert not rate.requires_grad
        assert (rate[0] == 0.5).all() and (rate[1] == 0.25).all()
    assert f"granularity='{granularity}', n_steps=2" in repr(rates)


def test_step_goes_against_the_gradient_by_each_weights_own_rate():
    rates = InnerRates({"w": (2,)}, 0.5, granularity="parameter", n_steps=2)
    with torch.no_grad():
        rates.rates["w"].copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
    weights = {"w": torch.tensor([[1.0, 1.0], [5.0, 5.0]])}  # two tasks
    gradients = {"w": torch.tensor([[1.0, 1.0], [10.0, 10.0]])}
    expected = [[[0.0, 3.0], [-5.0, 25.0]], [[1.0, -2.0], [5.0, -25.0]]]
    for step, after in enumerate([*expected, expected[1]]):  # the last is used on
        assert rates(weights, gradients, step)["w"].tolist() == after


def test_drawn_rates_are_uniform_and_of_their_generator():
    def drawn(seed):
        rates = InnerRates({"w": (50, 40)}, 0.1, granularity="parameter")
        rates.draw(0.005, 0.1, torch.Generator().manual_seed(seed))
        return rates.by_name()["w"].flatten()

    state = torch.get_rng_state()
    first = drawn(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, drawn(0))
    assert not torch.equal(first, drawn(1))
    assert first.min() >= 0.005 and first.max() <= 0.1
    assert first.mean().item() == pytest.approx(0.0525, abs=0.002)


def test_rate_of_step():
    assert rate_of_step(0.5, 7) == rate_of_step(np.float32(0.5), 0) == 0.5
    assert [rate_of_step([3, 2.0], step) for step in range(4)] == [3, 2, 2, 2]


# The faces -----------------------------------------------------------------------


def test_learned_rates_can_be_seen():
    meta = MAMLRegressor(learn_inner_lr="layer", inner_lr_per_step=True, **QUICK)
    meta.set_params(inner_lr=[0.05, 0.01]).fit(WAVES)
    rates = meta.learner_.inner_rates.by_name()
    names = [name for name, _ in meta.learner_.named_parameters()]
    assert set(rates) == {name for name in names if not name.startswith("inner_rates")}
    learned = torch.stack(list(rates.values()))  # (n_weights, n_steps)
    start = torch.tensor([0.05, 0.01])
    assert ((learned - start).abs() > 1e-4).all()
    assert ((learned - start).abs() < 1e-2).all()  # two updates of Adam at 1e-3
    assert MAMLRegressor(**QUICK).fit(WAVES).learner_.inner_rates is None


@pytest.mark.parametrize(
    "options",
    [
        {"inner_lr": [0.05, 0.01]},
        {"learn_inner_lr": "parameter", "inner_lr_per_step": True},
        {"inner_lr": (0.05, 0.01), "learn_inner_lr": "layer", "inner_lr_per_step": 1},
    ],
)
def test_inner_steps_other_than_in_training(options):
    """Fewer are the first ones; further ones take the last step's rate."""
    meta = MAMLRegressor(**QUICK, **options).fit(WAVES)
    trained = adapted(meta)
    for n_steps in (0, 1, 5):
        assert not np.allclose(adapted(meta.set_params(inner_steps=n_steps)), trained)
    np.testing.assert_array_equal(adapted(meta.set_params(inner_steps=2)), trained)
    few_shot = FewShotRegressor(meta).set_params(meta__inner_steps=4)
    assert np.isfinite(few_shot.fit(NEW.X[:5], NEW.y[:5]).predict(NEW.X)).all()


def test_another_list_of_rates_when_adapting():
    meta = MAMLRegressor(inner_lr=[0.05, 0.01], **QUICK).fit(WAVES)
    before = adapted(meta)
    assert not np.allclose(adapted(meta.set_params(inner_lr=[0.01, 0.05])), before)
    same = adapted(meta.set_params(inner_lr=0.02))
    np.testing.assert_allclose(adapted(meta.set_params(inner_lr=[0.02] * 2)), same)
    with pytest.raises(ValueError, match=r"is for 3 inner steps.*inner_steps=2"):
        adapted(meta.set_params(inner_lr=[0.1, 0.1, 0.1]))
    adapted(meta.set_params(inner_steps=3))


def test_lists_of_rates_survive_clone_and_search():
    meta = MAMLRegressor(inner_lr=[0.05, 0.01], **QUICK)
    assert clone(meta).inner_lr == [0.05, 0.01]
    grid = {"inner_lr": [0.1, [0.1, 0.01]], "learn_inner_lr": [False, "shared"]}
    search = GridSearchCV(
        MAMLRegressor(inner_lr_per_step=False, **QUICK),
        [grid | {"learn_inner_lr": [False]}, grid | {"inner_lr": [0.1]}],
        cv=2,
        error_score="raise",
    )
    assert np.isfinite(search.fit(WAVES).cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"inner_lr": [0.1, 0.1, 0.1]},
            r"\[0.1, 0.1, 0.1\] is for 3 inner steps.*inner_steps=2. Give as many",
        ),
        (
            {"inner_lr": [0.1], "learn_inner_lr": "layer", "inner_lr_per_step": True},
            "is for 1 inner steps.*inner_steps=2",
        ),
        ({"inner_lr": []}, "inner_lr is an empty list"),
        ({"inner_lr": [0.1, -0.1]}, r"inner_lr\[1\] == -0.1, must be > 0"),
        ({"inner_lr": [0.1, np.inf]}, r"inner_lr\[1\] must be finite"),
        ({"inner_lr": [0.1, "0.1"]}, r"inner_lr\[1\] must be an instance of"),
        ({"inner_lr": "fast"}, "inner_lr must be an instance of"),
        ({"learn_inner_lr": True}, "learn_inner_lr must be one of.*got True"),
        ({"learn_inner_lr": "weight"}, "learn_inner_lr must be one of.*got 'weight'"),
        ({"inner_lr_per_step": True}, "inner_lr_per_step=True needs learned rates"),
        ({"inner_lr_per_step": 2}, "inner_lr_per_step must be one of"),
        (
            {"inner_lr": [0.1, 0.1], "learn_inner_lr": "layer"},
            "has a rate for each step.*Use inner_lr_per_step=True",
        ),
        (
            {"first_order": True, "second_order_from": 5},
            "second_order_from=5.*Use first_order=False",
        ),
        ({"second_order_from": -1}, "second_order_from == -1, must be >= 0"),
        ({"multi_step_loss": 0.5}, "multi_step_loss must be an instance of"),
        ({"multi_step_loss": True}, "multi_step_loss must be an integer"),
    ],
)
def test_what_fit_refuses(options, match):
    meta = MAMLRegressor(**QUICK).set_params(**options)
    with pytest.raises((TypeError, ValueError), match=match):
        meta.fit(WAVES)
    assert not hasattr(meta, "learner_")


CHANGES = [
    ({"learn_inner_lr": "layer"}, {"inner_lr": 0.5}),
    ({"learn_inner_lr": "layer"}, {"learn_inner_lr": False}),
    ({"learn_inner_lr": "layer"}, {"inner_lr_per_step": True}),
    ({}, {"learn_inner_lr": "layer"}),
    ({}, {"multi_step_loss": 10}),
    ({}, {"second_order_from": 10}),
    ({}, {"first_order": True}),
]


@pytest.mark.parametrize(("options", "change"), CHANGES)
def test_changes_without_effect_are_refused(options, change):
    """When adapting, when predicting many tasks, and when meta-training goes on."""
    meta = MAMLRegressor(warm_start=True, **QUICK, **options).fit(WAVES)
    before, (name,) = adapted(meta), change
    old = getattr(meta, name)
    meta.set_params(**change)
    calls = [
        lambda: adapted(meta),
        lambda: meta.score(WAVES),
        lambda: meta.predict_tasks(TaskSet([(NEW.X, NEW.y)]), [NEW.X]),
        lambda: meta.fit(WAVES),
        lambda: meta.partial_fit(WAVES),
        lambda: FewShotRegressor(meta).fit(NEW.X, NEW.y),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=rf"{name}=.*meta-trained with {name}="):
            call()
    np.testing.assert_array_equal(adapted(meta.set_params(**{name: old})), before)


def test_going_on_keeps_rates_and_counts_updates():
    options = {"learn_inner_lr": "shared", "multi_step_loss": 3, **QUICK}
    meta = MAMLRegressor(warm_start=True, **options).fit(WAVES)
    first = meta.learner_.inner_rates.by_name()["all"].clone()
    assert meta.learner_.importance is not None
    meta.fit(WAVES)
    assert not torch.equal(meta.learner_.inner_rates.by_name()["all"], first)
    assert meta.learner_.importance is None  # the third update was the last of them


def test_other_inner_steps_while_meta_training_goes_on():
    options = {"learn_inner_lr": "layer", "inner_lr_per_step": True, **QUICK}
    meta = MAMLRegressor(warm_start=True, **options).fit(WAVES)
    meta.set_params(inner_steps=4).fit(WAVES)
    assert meta.learner_.inner_rates.n_steps == 2
    listed = MAMLRegressor(warm_start=True, inner_lr=[0.05, 0.01], **QUICK).fit(WAVES)
    with pytest.raises(ValueError, match=r"is for 2 inner steps.*inner_steps=4"):
        listed.set_params(inner_steps=4).fit(WAVES)


def test_advice_on_divergence_names_what_can_be_lowered():
    learned = MAMLRegressor(learn_inner_lr="layer")
    assert learned._adaptation_parameters == ("inner_steps",)
    assert MAMLClassifier()._adaptation_parameters == ("inner_lr", "inner_steps")
    assert MetaSGDRegressor()._adaptation_parameters == ("inner_steps",)
