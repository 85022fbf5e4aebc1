"""Which rows pre-training sees, and what it leaves alone."""

import numpy as np
import pytest
import torch
from torch import nn

from sklmeta import (
    ClassPool,
    FineTuneClassifier,
    FineTuneRegressor,
    MAMLClassifier,
    MAMLRegressor,
    MetaBaselineClassifier,
    MetaTransferClassifier,
    TaskSet,
)
from sklmeta.datasets import AmbiguousAttributes, make_sinusoids
from sklmeta.transfer import FineTune

SMALL = {"max_iter": 3, "batch_size": 4, "random_state": 0}


def pool_of(seed, n_classes=5, n_rows=12, shift=0.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(shift, 1, (n_classes * n_rows, 6)).astype(np.float32)
    return ClassPool(X, np.repeat([f"{seed} {i}" for i in range(n_classes)], n_rows))


def net(input_shape):
    return nn.Sequential(nn.Linear(*input_shape, 8), nn.ReLU(), nn.Linear(8, 8))


def frozen_net(input_shape):
    return net(input_shape).requires_grad_(False)


@pytest.mark.parametrize("how", [{"freeze": True}, {"backbone": frozen_net}])
def test_scales_and_shifts_of_a_frozen_backbone_are_trained(how):
    meta = MetaTransferClassifier(
        **{"backbone": net, "n_way": 3, "n_shot": 2, "hard_tasks": None, **SMALL, **how}
    ).fit(pool_of(0))
    learned = dict(meta.learner_.backbone.named_parameters())
    factors = [w for name, w in learned.items() if name.endswith("factor")]
    offsets = [w for name, w in learned.items() if name.endswith("offset")]
    assert factors and any((w != 1).any() for w in factors)
    assert any((w != 0).any() for w in offsets)
    weights = [w for n, w in learned.items() if n.endswith("original")]
    assert weights and not any(w.requires_grad for w in weights)


def test_pre_training_does_not_see_held_out_tasks(monkeypatch):
    drawn = {}
    sample = AmbiguousAttributes.sample

    def recorded(self, n_tasks, random_state=None):
        drawn.setdefault(random_state, 0)
        drawn[random_state] += 1
        return sample(self, n_tasks, random_state)

    monkeypatch.setattr(AmbiguousAttributes, "sample", recorded)
    seen = []
    ready = MetaBaselineClassifier._get_ready

    def get_ready(self, learner, tasks, preparation, seeds, goes_on):
        before = set(drawn)
        result = ready(self, learner, tasks, preparation, seeds, goes_on)
        seen.append((set(drawn) - before, seeds.held_out))
        return result

    monkeypatch.setattr(MetaBaselineClassifier, "_get_ready", get_ready)
    MetaBaselineClassifier(
        net, pretrain_iter=2, early_stopping=True, n_query=4, **SMALL
    ).fit(AmbiguousAttributes())
    ((pretrained, held_out),) = seen
    assert pretrained and held_out not in pretrained


def histories(weights):
    both = ClassPool.from_domains({"a": pool_of(0), "b": pool_of(1, shift=3.0)})
    meta = FineTuneClassifier(net, domain_weights=weights, **SMALL).fit(both)
    return meta.history_[-1, "train_loss"]


def test_rows_are_drawn_by_the_weights_of_their_domains():
    losses = [histories(w) for w in (None, "equal", {"a": 1, "b": 3}, {"a": 3, "b": 1})]
    assert len(set(losses)) == 4


def test_weights_of_domains_give_the_shares_of_rows():
    from sklmeta.engine.episodes import RowPool, row_weights

    x = torch.zeros(10, 1)
    pool = RowPool(x, x[:, 0], [0, 2, 5, 10], names="abc", domains=["p", "q", "q"])
    assert row_weights(pool, None) is None
    shares = row_weights(pool, {"p": 1.0, "q": 4.0})
    torch.testing.assert_close(shares, torch.tensor([0.5] * 2 + [0.5] * 8).double())
    nothing = row_weights(pool, {"p": 0.0, "q": 1.0})
    assert nothing.tolist() == [0.0] * 2 + [0.125] * 8


@pytest.mark.parametrize("learner", [FineTuneRegressor, MAMLRegressor])
@pytest.mark.parametrize("normalize_y", [True, "task"])
def test_a_domain_without_weight_changes_nothing(learner, normalize_y):
    waves = make_sinusoids(20, random_state=0)
    new = make_sinusoids(1, random_state=1)[0]
    bad = TaskSet([(50 * task.X + 300, 1000 * task.y + 1e4) for task in waves])
    common = {**SMALL, "normalize_y": normalize_y, "n_query": 5}
    both = TaskSet.from_domains({"waves": waves, "bad": bad})
    one = TaskSet.from_domains({"waves": waves})
    alone = learner(net, domain_weights={"waves": 1}, **common).fit(one)
    weighed = learner(net, domain_weights={"waves": 1, "bad": 0}, **common).fit(both)
    rows = new.X[:5], new.y[:5]
    np.testing.assert_array_equal(
        alone.adapt(*rows).predict(new.X), weighed.adapt(*rows).predict(new.X)
    )


def test_a_number_of_steps_that_diverges_is_not_chosen():
    waves = make_sinusoids(10, random_state=0)
    new = make_sinusoids(1, random_state=1)[0]
    meta = FineTuneRegressor(
        net,
        inner_optimizer="sgd",
        inner_lr=3.0,
        inner_steps=2000,
        inner_early_stopping=True,
        **SMALL,
    ).fit(waves)
    predicted = meta.adapt(new.X[:6], new.y[:6]).predict(new.X)
    assert np.abs(predicted).max() < 100


def test_frozen_pre_training_takes_what_unfrozen_takes():
    rows = pool_of(0, n_rows=1)
    for freeze in (None, True):
        FineTuneClassifier(net, freeze=freeze, **SMALL).fit(rows)
    few = TaskSet([(task.X[:3], task.y[:3]) for task in make_sinusoids(6)])
    for freeze in (None, True):
        FineTuneRegressor(net, freeze=freeze, small_tasks="raise", **SMALL).fit(few)


def test_other_classes_of_the_same_number_get_a_new_head(monkeypatch):
    meta = FineTuneClassifier(net, warm_start=True, **SMALL).fit(pool_of(0))
    made = []
    new_head = FineTune.new_head

    def counted(self, n_outputs, generator):
        made.append(n_outputs)
        return new_head(self, n_outputs, generator)

    monkeypatch.setattr(FineTune, "new_head", counted)
    meta.fit(pool_of(1))
    assert made == [5]
    meta.fit(pool_of(1))
    assert made == [5]
    meta.partial_fit(pool_of(2))
    assert made == [5, 5]


def with_batch_norm(input_shape):
    return nn.Sequential(nn.Linear(*input_shape, 8), nn.BatchNorm1d(8), nn.ReLU())


def test_averages_that_nobody_learned_are_not_kept():
    maml = MAMLClassifier(with_batch_norm, n_way=3, n_query=4, **SMALL).fit(pool_of(0))
    with pytest.raises(ValueError, match=r"max_iter=0 leaves.*has learned none"):
        FineTuneClassifier(backbone_from=maml, max_iter=0).fit(pool_of(1))


def test_pre_training_that_diverges_does_not_advise_what_cannot_help():
    meta = MetaBaselineClassifier(
        net, pretrain_iter=50, pretrain_lr=1e30, optimizer="sgd", **SMALL
    )
    with pytest.raises(ValueError, match="Lower pretrain_lr") as caught:
        meta.fit(pool_of(0))
    assert "callbacks" not in str(caught.value)
