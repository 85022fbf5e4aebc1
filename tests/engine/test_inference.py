"""Adapting and predicting without gradients: blocks, precision, threads."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sklmeta.backbones import MLP, ConvNet
from sklmeta.engine import inference
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec, gather
from sklmeta.engine.inference import (
    adapt,
    embedded,
    predict,
    predict_rows,
    run_episodes,
)
from sklmeta.engine.pool import RowPool
from sklmeta.gradient import MAML
from sklmeta.metric import ProtoNet

N_WAYS = 3


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def make_rows(n_tasks=4, n_rows=8, shape=(5,), seed=0, n_way=None):
    generator = rng(seed)
    x = torch.randn(n_tasks, n_rows, *shape, generator=generator)
    y = torch.randint(N_WAYS, (n_tasks, n_rows), generator=generator)
    return Rows(x, y, torch.ones(n_tasks, n_rows, dtype=torch.bool), n_way)


def maml(backbone=None, n_outputs=N_WAYS, **options):
    backbone = backbone or MLP(5, (16, 16), generator=rng(1))
    learner = MAML(
        backbone,
        backbone.out_features,
        n_outputs,
        task_type="classification",
        inner_lr=0.1,
        inner_steps=2,
        generator=rng(2),
        **options,
    )
    return learner.eval()


def protonet(n_outputs=N_WAYS):
    return ProtoNet(MLP(5, (16, 16), generator=rng(1)), n_outputs).eval()


def conv_maml(**options):
    return maml(ConvNet((1, 4, 4), 4, 2, generator=rng(1)), **options)


@pytest.mark.parametrize("make", [maml, protonet])
def test_a_rows_prediction_does_not_depend_on_its_batch(make):
    learner = make()
    state = adapt(learner, make_rows())
    x = make_rows(n_rows=1100, seed=1).x  # more than two blocks
    together = predict(learner, state, x)
    assert together.dtype == torch.float64 and not together.requires_grad
    for rows in (slice(0, 1), slice(511, 514), slice(700, 1100)):
        alone = predict(learner, state, x[:, rows])
        torch.testing.assert_close(alone, together[:, rows], rtol=1e-12, atol=1e-12)
    backwards = predict(learner, state, x.flip(1)).flip(1)
    torch.testing.assert_close(backwards, together, rtol=1e-12, atol=1e-12)


def test_double_precision_is_that_of_the_learners_weights():
    learner = maml()
    state = adapt(learner, make_rows())
    x = make_rows(seed=1).x
    with torch.no_grad():
        plain = learner.predict(state, x)
    torch.testing.assert_close(predict(learner, state, x).float(), plain)
    assert next(learner.parameters()).dtype == torch.float32


@pytest.mark.parametrize("change", ["train", "load", "mode"])
def test_predictions_follow_the_weights(change):
    learner = protonet()
    support, x = make_rows(), make_rows(seed=1).x
    before = predict(learner, adapt(learner, support), x)
    if change == "train":
        learner.meta_loss(Episodes(support, support)).sum().backward()
        torch.optim.SGD(learner.parameters(), 0.1).step()
    elif change == "load":
        weights = {n: 2 * w for n, w in learner.state_dict().items()}
        learner.load_state_dict(weights)
    else:
        learner.train()
    after = predict(learner, adapt(learner, support), x)
    assert torch.equal(before, after) == (change == "mode")
    fresh = copy.deepcopy(learner)
    assert torch.equal(after, predict(fresh, adapt(fresh, support), x))


def test_options_are_read_at_every_call():
    learner = protonet()
    state, x = adapt(learner, make_rows()), make_rows(seed=1).x
    one = predict(learner, state, x)
    other = predict(learner.with_options(temperature=2.0), state, x)
    torch.testing.assert_close(other, one / 2)
    assert torch.equal(predict(learner, state, x), one)


def test_learners_on_one_backbone_are_told_apart():
    backbone = MLP(5, (16, 16), generator=rng(1))
    learners = ProtoNet(backbone, N_WAYS).eval(), maml(backbone)
    support, x = make_rows(), make_rows(seed=1).x
    for learner in learners:
        state = adapt(learner, support)
        with torch.no_grad():
            plain = learner.predict(state, x)
        torch.testing.assert_close(predict(learner, state, x).float(), plain)


def test_images_stay_in_single_precision():
    learner = conv_maml()
    state = adapt(learner, make_rows(shape=(1, 4, 4)))
    assert predict(learner, state, make_rows(shape=(1, 4, 4)).x).dtype == torch.float32


def test_transductive_batches_are_not_cut(monkeypatch):
    monkeypatch.setattr(inference, "ROWS_PER_BLOCK", 3)
    rows = make_rows(shape=(1, 4, 4))
    for transductive in (True, False):
        learner = conv_maml(transductive=transductive)
        state = adapt(learner, rows)
        with torch.no_grad():
            whole = learner.predict(state, rows.x)
        torch.testing.assert_close(predict(learner, state, rows.x), whole)


@pytest.mark.parametrize("transductive", [False, True])
def test_rows_of_a_pool_are_predicted_block_by_block(monkeypatch, transductive):
    learner = conv_maml(transductive=transductive)
    state = adapt(learner, make_rows(1, shape=(1, 4, 4)))
    images = torch.randint(256, (11, 4, 4, 1), dtype=torch.uint8, generator=rng())
    pool = RowPool.from_tasks(images, torch.zeros(11), [0, 11], [None])
    whole = predict(learner, state, pool.take(torch.arange(11)[None]))[0]
    taken = []

    def take(self, index, take=RowPool.take):
        taken.append(index.shape[1])
        return take(self, index)

    monkeypatch.setattr(RowPool, "take", take)
    monkeypatch.setattr(inference, "ROWS_PER_BLOCK", 4)
    found = predict_rows(learner, state, pool)
    torch.testing.assert_close(found, whole)
    assert taken == ([11] if transductive else [4, 4, 3])


@pytest.mark.parametrize("kind", ["maml", "protonet", "conv"])
@pytest.mark.parametrize("values_per_pass", [1, 2**24])
def test_ragged_episodes_equal_every_task_alone(monkeypatch, kind, values_per_pass):
    monkeypatch.setattr(inference, "VALUES_PER_PASS", values_per_pass)
    make = {"maml": maml, "protonet": protonet, "conv": conv_maml}[kind]
    learner = make(n_outputs=None)
    shape = (1, 4, 4) if kind == "conv" else (5,)
    n_way = torch.tensor([3, 2, 3, 2])
    support, query = (make_rows(4, 6, shape, s, n_way) for s in (0, 1))
    for rows in (support, query):
        rows.y.clamp_(max=n_way[:, None] - 1)
    support.mask[1, 4:] = query.mask[1, 5:] = query.mask[3, 2:] = False
    outputs = run_episodes(learner, Episodes(support, query))
    assert outputs.shape == (4, 6, 3)
    for task in range(4):
        own = Episodes(support, query)[task : task + 1].trimmed()
        alone = predict(learner, adapt(learner, own.support), own.query.x)[0]
        n_query, n_ways = len(alone), int(n_way[task])
        found = outputs[task, :n_query]
        assert torch.isneginf(found[:, n_ways:]).all()
        torch.testing.assert_close(
            found[:, :n_ways],
            alone[:, :n_ways],
            rtol=1e-4,
            atol=1e-5,
            check_dtype=False,
        )


@pytest.mark.parametrize("kind", ["table", "images"])
def test_rows_are_embedded_once(kind):
    """Learners on features predict what they predict on rows, cheaper."""
    shape, backbone = (5,), MLP(5, (16, 16), generator=rng(1))
    if kind == "images":
        shape, backbone = (4, 4, 1), ConvNet((1, 4, 4), 4, 2, generator=rng(1))
    learner = ProtoNet(backbone, None, temperature=2.0).eval()
    x = torch.randn(12, *shape, generator=rng())
    pool = RowPool.from_classes(x, [0, 4, 8, 12], names="abc")
    sampler = EpisodeSampler(pool, EpisodeSpec(n_shot=1, n_way=2, per_class=True))
    index = sampler.draw(5, rng())
    used = index.rows().unique()
    passed = []
    backbone.register_forward_pre_hook(lambda _, args: passed.append(len(args[0])))
    on_features, features = embedded(learner, pool, index.rows())
    assert sum(passed) == len(used)
    found = run_episodes(on_features, gather(features, index))
    assert sum(passed) == len(used)
    expected = run_episodes(learner, gather(pool, index))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(features.y, pool.y) and features.is_class_pool


def test_rows_are_embedded_only_where_that_changes_nothing():
    tables = torch.randn(12, 5, generator=rng())
    pool = RowPool.from_classes(tables, [0, 4, 8, 12], names="abc")
    once, twice = torch.arange(12), torch.arange(12).repeat(2)
    batch_norm = torch.nn.BatchNorm1d(5, track_running_stats=False)
    own_statistics = ProtoNet(batch_norm, None).eval()
    for learner, rows in (
        (protonet(), once),
        (maml(), twice),
        (own_statistics, twice),
        (ProtoNet(torch.nn.BatchNorm1d(5), None).train(), twice),
    ):
        assert embedded(learner, pool, rows) == (learner, pool)


def test_regression_outputs_have_their_width():
    learner = MAML(MLP(5, (8,)), 8, 2, task_type="regression").eval()
    rows = make_rows()
    y = torch.zeros(4, 8, 2)
    episodes = Episodes(Rows(rows.x, y, rows.mask), Rows(rows.x, y, rows.mask))
    assert run_episodes(learner, episodes).shape == (4, 8, 2)


@pytest.mark.parametrize("kind", ["table", "images"])
def test_threads_may_share_a_learner(kind):
    shape = (1, 4, 4) if kind == "images" else (5,)
    learner = conv_maml() if kind == "images" else maml()
    jobs = [
        (make_rows(1, 6, shape, seed), make_rows(1, 9, shape, seed + 100).x)
        for seed in range(24)
    ]

    def work(job):
        support, x = job
        return predict(learner, adapt(learner, support), x)

    with ThreadPoolExecutor(8) as pool:  # first of all, while nothing is cached
        together = list(pool.map(work, jobs))
    for found, expected in zip(together, map(work, jobs), strict=True):
        assert torch.equal(found, expected)
