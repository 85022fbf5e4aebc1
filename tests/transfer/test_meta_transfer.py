"""Meta-transfer: scales and shifts by hand, frozen weights, and hard tasks."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklmeta import ClassPool, MetaTransferClassifier
from sklmeta.backbones import ConvNet
from sklmeta.datasets import load_digits_pool
from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec, RowPool
from sklmeta.engine.learner import Learner
from sklmeta.transfer._hard_tasks import HardTasks
from sklmeta.transfer._scale_shift import scaled_and_shifted


def small_backbone(input_shape):
    return nn.Sequential(nn.Linear(input_shape[0], 8), nn.ReLU(), nn.Linear(8, 5))


def flat_digits():
    pool = load_digits_pool()
    return ClassPool(np.asarray(pool.X).reshape(len(pool.X), -1).astype(float), pool.y)


def make_meta(**options):
    options = {"pretrain_iter": 20, "max_iter": 12, "random_state": 0, **options}
    return MetaTransferClassifier(small_backbone, **options)


def test_scales_and_shifts_are_the_papers_formula():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, padding=1)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    module = scaled_and_shifted(nn.Sequential(layer))
    x = torch.randn(4, 2, 5, 5)
    torch.testing.assert_close(module(x), F.conv2d(x, weight, bias, padding=1))
    learned = dict(module.named_parameters())
    learned = {n: p for n, p in learned.items() if p.requires_grad}
    assert sorted(p.numel() for p in learned.values()) == [3, 6]
    for parameter in learned.values():
        parameter.data = torch.randn(parameter.shape)
    factor, offset = sorted(learned.values(), key=lambda p: -p.numel())
    expected = F.conv2d(x, weight * factor, bias + offset, padding=1)
    torch.testing.assert_close(module(x), expected)


def test_layers_without_bias_get_a_shift():
    module = scaled_and_shifted(nn.Sequential(nn.Linear(3, 2, bias=False)))
    learned = [tuple(p.shape) for p in module.parameters() if p.requires_grad]
    assert sorted(learned) == [(2,), (2, 1)]


def test_features_are_the_same_at_first_and_pickle():
    backbone = ConvNet((1, 28, 28), generator=torch.Generator().manual_seed(0)).eval()
    before = copy.deepcopy(backbone)
    after = scaled_and_shifted(backbone)
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(after(x), before(x))
    torch.testing.assert_close(pickle.loads(pickle.dumps(after))(x), before(x))


def test_pretraining_moves_weights_and_meta_training_leaves_them():
    pool = flat_digits()[:6]
    states = [
        make_meta(pretrain_iter=p, max_iter=m, hard_tasks=None).fit(pool).learner_
        for p, m in [(0, 1), (20, 1), (20, 12)]
    ]
    states = [learner.backbone.state_dict() for learner in states]
    frozen = [n for n in states[0] if n.endswith("original")]
    learned = [n for n in states[0] if n.endswith(("factor", "offset"))]
    assert len(frozen) == len(learned) == 4
    for name in frozen:
        assert not torch.equal(states[0][name], states[1][name])
        assert torch.equal(states[1][name], states[2][name])
    for name in learned:
        assert not torch.equal(states[1][name], states[2][name])


def test_history_of_both_stages():
    meta = make_meta(pretrain_iter=250, max_iter=20, eval_every=10).fit(
        flat_digits()[:6]
    )
    losses = meta.pretrain_history_[:, "train_loss"]
    assert len(losses) == 25
    assert losses[-1] < losses[0]
    assert len(meta.history_) == 2
    again = pickle.loads(pickle.dumps(meta))
    assert again.pretrain_history_[:, "train_loss"] == losses


def test_weights_that_users_froze_stay():
    torch.manual_seed(0)
    module = small_backbone((64,))
    module[0].requires_grad_(False)
    meta = MetaTransferClassifier(
        module, pretrain_iter=20, max_iter=2, random_state=0
    ).fit(flat_digits()[:6])
    state = meta.learner_.backbone.state_dict()
    assert torch.equal(state["0.parametrizations.weight.original"], module[0].weight)
    assert not torch.equal(
        state["2.parametrizations.weight.original"], module[2].weight
    )


def test_held_out_classes_are_not_pretrained_on(monkeypatch):
    seen = []
    from sklmeta.transfer import _pretraining

    def watch(tasks, *rest):
        seen.append(len(tasks))
        return original(tasks, *rest)

    original = _pretraining.training_stream
    monkeypatch.setattr(_pretraining, "training_stream", watch)
    make_meta(early_stopping=True, n_way=2).fit(flat_digits())
    assert seen == [8]


def test_a_backbone_without_layers_is_refused():
    with pytest.raises(ValueError, match="no convolution"):
        MetaTransferClassifier("identity").fit(flat_digits()[:5])


class FailsAt(Learner):
    """Classifies rows rightly by their second feature, but those of some classes."""

    def __init__(self, hard):
        super().__init__("classification")
        self.weight = nn.Parameter(torch.zeros(1))
        self.hard = torch.tensor(hard)

    def adapt(self, support):
        n_ways = int(support.y.max()) + 1
        ways = torch.zeros(len(support), n_ways, dtype=support.x.dtype)
        return ways.scatter(1, support.y, support.x[..., 1])

    def predict(self, state, x):
        right = (x[..., 1:2] == state.unsqueeze(1)).to(x.dtype)
        wrong = torch.isin(x[..., 1:2].long(), self.hard)
        return torch.where(wrong, 1 - right, right)


def test_hard_batches_hold_the_classes_that_were_failed_at():
    n_classes, n_rows = 20, 6
    which = torch.arange(n_classes).repeat_interleave(n_rows)
    x = torch.stack([which, which], 1).float()
    pool = RowPool.from_classes(
        x, torch.arange(n_classes + 1) * n_rows, [str(c) for c in range(n_classes)]
    )
    sampler = EpisodeSampler(pool, EpisodeSpec(2, n_query=3, n_way=3, per_class=True))
    hard = [3, 7, 11, 15, 19]

    batches = HardTasks(sampler, FailsAt(hard), batch_size=8, every=4).batches(
        torch.Generator().manual_seed(0)
    )
    drawn = [set(next(batches).query.x[..., 1].flatten().tolist()) for _ in range(10)]
    for number, classes in enumerate(drawn):
        if number % 5 == 4:
            assert classes <= set(map(float, hard))
        else:
            assert not classes <= set(map(float, hard))


def test_hard_batches_of_tasks_are_those_of_largest_loss():
    # Two classes in each of 12 tasks: 0 and 1, or in tasks 3 and 7 classes 2 and 3.
    kind = torch.arange(2).repeat(12 * 10)
    kind[3 * 20 : 4 * 20] += 2
    kind[7 * 20 : 8 * 20] += 2
    x = torch.stack([torch.zeros(len(kind)), kind.float()], 1)
    pool = RowPool(x, kind % 2, torch.arange(13) * 20, names=range(12))
    sampler = EpisodeSampler(pool, EpisodeSpec(10, n_query=10))
    index = sampler.draw(24, torch.Generator().manual_seed(0))
    hard = HardTasks(sampler, FailsAt([2, 3]), 3, 8)._hard(index)
    assert set(hard.task_ids.tolist()) <= {3, 7}


def test_a_sampler_among_some_draws_as_one_made_of_them():
    x = torch.arange(24.0)[:, None]
    pool = RowPool.from_classes(x, torch.arange(7) * 4, list("abcdef"))
    part = RowPool.from_classes(x[8:20], torch.arange(4) * 4, list("cde"))
    spec = EpisodeSpec(1, n_query=2, n_way=2, per_class=True)
    some = EpisodeSampler(pool, spec).among(classes=torch.tensor([2, 3, 4]))
    alone = EpisodeSampler(part, spec)
    for seed in range(3):
        drawn = [
            s.gather(s.draw(5, torch.Generator().manual_seed(seed))).query.x
            for s in (some, alone)
        ]
        assert torch.equal(*drawn)
