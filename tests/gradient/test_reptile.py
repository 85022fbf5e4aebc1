"""Reptile against plain loops over tasks with torch's optimizers, in float64."""

import copy
import warnings

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sklmeta import ClassPool, ReptileClassifier, ReptileRegressor, TaskSet
from sklmeta.backbones import MLP, ConvNet
from sklmeta.datasets import load_digits_pool, make_sinusoids
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import Progress
from sklmeta.engine.recorded import RecordedUpdate
from sklmeta.engine.threads import ThreadedUpdate
from sklmeta.engine.updates import EagerUpdate, make_update, parts_of
from sklmeta.gradient import Reptile, network, reptile
from sklmeta.gradient._inner_optimizers import BETA, minibatches

N_TASKS, N_SUPPORT, N_QUERY, N_FEATURES, N_WAYS = 3, 7, 5, 4, 3


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def make_rows(n_rows, shape, target, generator, n_way=None):
    x = torch.randn(N_TASKS, n_rows, *shape, generator=generator, dtype=torch.float64)
    if target == "numbers":
        size = (N_TASKS, n_rows, 2)
        y = torch.randn(size, generator=generator, dtype=torch.float64)
    else:
        y = torch.randint(N_WAYS, (N_TASKS, n_rows), generator=generator)
        if n_way is not None:
            y = torch.minimum(y, (n_way - 1)[:, None])
    return Rows(x, y, torch.ones(N_TASKS, n_rows, dtype=torch.bool), n_way)


def make_episodes(shape=(N_FEATURES,), target="shared", *, ragged=False, seed=0):
    generator = rng(seed)
    n_way = None
    if target == "local":
        n_way = torch.tensor([N_WAYS, N_WAYS - 1, N_WAYS])
    support = make_rows(N_SUPPORT, shape, target, generator, n_way)
    query = make_rows(N_QUERY, shape, target, generator, n_way)
    if ragged:
        support.mask[0, 4:] = False
        query.mask[2, 2:] = False
    return Episodes(support, query)


def mlp():
    return MLP(N_FEATURES, (6, 5), generator=rng(2))


def conv_net():
    return ConvNet((1, 6, 6), 4, 2, generator=rng(2))


def make_learner(backbone, target="shared", **options):
    n_outputs = {"shared": N_WAYS, "local": None, "numbers": 2}[target]
    kind = "regression" if target == "numbers" else "classification"
    options = {"inner_lr": 0.01, "inner_steps": 6, "train_steps": 4, **options}
    learner = Reptile(
        backbone,
        backbone.out_features,
        n_outputs,
        task_type=kind,
        n_ways=N_WAYS,
        generator=rng(1),
        **options,
    )
    return learner.double()


def meta_gradients(learner, episodes):
    """Return the meta-loss, and its gradients by the weights that are meta-learned."""
    learner.zero_grad()
    loss = learner.meta_loss(episodes).sum()
    loss.backward()
    return loss.detach(), {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in learner.named_parameters()
        if name not in learner.own_updates
    }


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance)


@pytest.fixture(params=["loop", "vmap"])
def method(request, monkeypatch):
    monkeypatch.setattr(network, "mapping_method", lambda module, device: request.param)
    return request.param


def batches_of_rows(learner, episodes, task):
    """Return the rows (x, y) that each inner step of a task sees in meta-training."""
    support, query = episodes.support, episodes.query
    rows = Rows(
        torch.cat([support.x, query.x], 1),
        torch.cat([support.y, query.y], 1),
        torch.cat([support.mask, query.mask], 1),
    )
    size = learner.inner_batch_size
    parts = minibatches(rows, size, learner.train_steps, learner.update)
    return [
        (part.x[task][part.mask[task]], part.y[task][part.mask[task]]) for part in parts
    ]


def plain_inner_loop(learner, batches, kind, state=None):
    """Adapt a copy of the learner to one task by torch's optimizer."""
    own = copy.deepcopy(learner)
    weights = [p for n, p in own.named_parameters() if n not in own.own_updates]
    if kind == "sgd":
        optimizer = torch.optim.SGD(weights, own.inner_lr)
    else:
        optimizer = torch.optim.Adam(weights, own.inner_lr, betas=(0.0, BETA))
    if state is not None:
        optimizer.load_state_dict(copy.deepcopy(state))
    for x, y in batches:
        outputs = own.backbone(x) @ own.head.weight.T + own.head.bias
        loss_of = (
            nn.MSELoss() if own.task_type == "regression" else nn.CrossEntropyLoss()
        )
        optimizer.zero_grad()
        loss = loss_of(outputs, y)
        loss.backward()
        optimizer.step()
    adapted = {
        n: p.detach() for n, p in own.named_parameters() if n not in own.own_updates
    }
    return adapted, loss.detach(), optimizer


# Meta-gradients ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("target", ["shared", "numbers"])
def test_meta_gradient_equals_a_plain_loop(method, kind, size, target):
    learner = make_learner(
        mlp(), target, inner_optimizer=kind, inner_batch_size=size
    ).train()
    episodes = make_episodes(target=target, ragged=True)
    loss, found = meta_gradients(learner, episodes)
    expected_loss, expected = 0.0, dict.fromkeys(found, 0.0)
    for task in range(N_TASKS):
        batches = batches_of_rows(learner, episodes, task)
        adapted, last, _ = plain_inner_loop(learner, batches, kind)
        expected_loss = expected_loss + last
        for name, weight in adapted.items():
            start = learner.get_parameter(name).detach()
            expected[name] = expected[name] + start - weight
    torch.testing.assert_close(loss, expected_loss)
    assert_same(found, expected)


def test_one_step_of_descent_is_joint_training():
    learner = make_learner(
        mlp(), inner_optimizer="sgd", train_steps=1, inner_batch_size=None
    )
    episodes = make_episodes()
    loss, found = meta_gradients(learner, episodes)
    joint = 0.0
    for rows in (episodes.support, episodes.query):
        x, y = rows.x.flatten(0, 1), rows.y.flatten()
        outputs = learner.backbone(x) @ learner.head.weight.T + learner.head.bias
        joint = joint + nn.functional.cross_entropy(outputs, y, reduction="sum")
    joint = joint / (N_SUPPORT + N_QUERY)
    torch.testing.assert_close(loss, joint.detach())
    gradients = torch.autograd.grad(joint, [learner.get_parameter(n) for n in found])
    expected = [learner.inner_lr * g for g in gradients]
    assert_same(found, dict(zip(found, expected, strict=True)))


def smooth_net():
    net = nn.Sequential(nn.Linear(N_FEATURES, 5), nn.Tanh())
    net.out_features = 5
    for p in net.parameters():
        nn.init.uniform_(p, -0.5, 0.5, generator=rng(3))
    return net


@pytest.mark.parametrize("n_steps", [2, 3])
def test_expansion_in_the_step_size(n_steps):
    """What is left of equation (2) shrinks with the third power of the step size."""
    left = []
    for lr in (0.02, 0.01):
        learner = make_learner(
            smooth_net(),
            inner_optimizer="sgd",
            inner_lr=lr,
            train_steps=n_steps,
            inner_batch_size=4,
        )
        episodes = make_episodes()[:1]
        _, found = meta_gradients(learner, episodes)
        weights = [learner.get_parameter(name) for name in found]
        gradients = []
        for x, y in batches_of_rows(learner, episodes, 0):
            outputs = learner.backbone(x) @ learner.head.weight.T + learner.head.bias
            loss = nn.functional.cross_entropy(outputs, y)
            gradients.append(torch.autograd.grad(loss, weights, create_graph=True))
        expected = [lr * sum(parts) for parts in zip(*gradients, strict=True)]
        for j, own in enumerate(gradients):
            for before in gradients[:j]:
                product = torch.autograd.grad(own, weights, before, retain_graph=True)
                expected = [
                    e - lr**2 * p for e, p in zip(expected, product, strict=True)
                ]
        squares = [
            (f - e.detach()).square().sum()
            for f, e in zip(found.values(), expected, strict=True)
        ]
        left.append(float(sum(squares)) ** 0.5)
    assert left[0] / left[1] == pytest.approx(8, rel=0.1)


@pytest.mark.parametrize("head", ["fixed", "shared", "prototype"])
def test_heads_for_local_labels(method, head):
    """Those of the head's weights that are learned move; absent ways' do not."""
    learner = make_learner(mlp(), "local", head=head).train()
    episodes = make_episodes(target="local")
    _, found = meta_gradients(learner, episodes)
    assert ("head.weight" in found) == (head == "fixed")
    assert found["backbone.layers.0.weight"].abs().sum() > 0
    alone = [meta_gradients(learner, episodes[i : i + 1])[1] for i in range(N_TASKS)]
    assert_same(found, {n: sum(one[n] for one in alone) for n in found})
    if head == "fixed":  # the second task has no third way
        assert not alone[1]["head.weight"][2].any()
        assert not alone[1]["head.bias"][2].any()


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_loop_and_vmap_agree_on_the_conv_net(monkeypatch, kind):
    episodes, found = make_episodes((1, 6, 6), "local"), {}
    for method in ("loop", "vmap"):
        learner = make_learner(conv_net(), "local", inner_optimizer=kind).train()
        monkeypatch.setattr(network, "mapping_method", lambda *_, m=method: m)
        found[method] = meta_gradients(learner, episodes)
    torch.testing.assert_close(found["loop"][0], found["vmap"][0])
    assert_same(found["loop"][1], found["vmap"][1])


@pytest.mark.parametrize("backbone", [mlp, conv_net], ids=["mlp", "conv"])
def test_padding_changes_nothing(backbone):
    shape = (N_FEATURES,) if backbone is mlp else (1, 6, 6)
    learner = make_learner(backbone(), inner_batch_size=5).train()
    episodes = make_episodes(shape, ragged=True)
    episodes.support.x[~episodes.support.mask] = 1e3
    episodes.query.x[~episodes.query.mask] = -1e3
    together, alone = {}, {}
    for part in episodes.parts(None, equal_rows=learner.needs_equal_rows):
        for name, value in meta_gradients(learner, part)[1].items():
            together[name] = together.get(name, 0) + value
    for task in range(N_TASKS):
        own = episodes[task : task + 1].trimmed()
        for name, value in meta_gradients(learner, own)[1].items():
            alone[name] = alone.get(name, 0) + value
    assert_same(together, alone)


def test_without_gradients_the_meta_loss_is_the_query_loss_after_adapting():
    learner = make_learner(mlp()).eval()
    episodes = make_episodes(ragged=True)
    with torch.no_grad():
        state = learner.adapt(episodes.support)
        expected = learner.loss(
            learner.predict(state, episodes.query.x), episodes.query
        )
        torch.testing.assert_close(learner.meta_loss(episodes), expected)


# Minibatches ---------------------------------------------------------------------


def counts_of(parts, n_rows):
    """Return how often each row of each task comes, its number being its value."""
    counts = torch.zeros(len(parts[0].x), n_rows, dtype=torch.int64)
    for part in parts:
        for task in range(len(part.x)):
            rows = part.x[task][part.mask[task]].flatten().long()
            assert len(rows.unique()) == len(rows)
            counts[task, rows] += 1
    return counts


def numbered_rows(*sizes):
    longest = max(sizes)
    x = torch.arange(float(longest)).expand(len(sizes), longest).unsqueeze(2)
    mask = torch.arange(longest) < torch.tensor(sizes)[:, None]
    return Rows(x, x.squeeze(2), mask)


def test_minibatches_take_all_rows_before_one_comes_again():
    rows = numbered_rows(12, 8, 12)
    parts = list(minibatches(rows, 4, 6, torch.tensor(0)))
    assert all(part.x.shape == (3, 4, 1) and part.mask.all() for part in parts)
    assert all(torch.equal(part.x.squeeze(2), part.y) for part in parts)
    counts = counts_of(parts, 12)
    assert (counts[[0, 2]] == 2).all()
    assert (counts[1, :8] == 3).all()
    assert not counts[1, 8:].any()
    assert not torch.equal(parts[0].x[0], parts[3].x[0])  # another order
    again = list(minibatches(rows, 4, 6, torch.tensor(0)))
    other = list(minibatches(rows, 4, 6, torch.tensor(1)))
    assert all(torch.equal(a.x, b.x) for a, b in zip(parts, again, strict=True))
    assert not all(torch.equal(a.x, b.x) for a, b in zip(parts, other, strict=True))


def test_tasks_smaller_than_a_minibatch_give_all_rows():
    parts = list(minibatches(numbered_rows(9, 3, 1), 5, 4, torch.tensor(3)))
    assert [part.mask.sum(1).tolist() for part in parts] == [[5, 3, 1]] * 4
    counts = counts_of(parts, 9)
    assert (counts[1, :3] == 4).all()
    assert counts[2, 0] == 4
    assert counts[0].sum() == 20 and (counts[0] >= 2).all()


@pytest.mark.parametrize("size", [None, 9, 20])
def test_large_minibatches_are_all_rows(size):
    rows = numbered_rows(9, 4)
    parts = list(minibatches(rows, size, 2, torch.tensor(0)))
    assert len(parts) == 2
    assert all(part is rows for part in parts)


# Adam's second moments -----------------------------------------------------------


def next_update(learner, episodes, n_done):
    """Make one meta-update as meta-training does."""
    learner.progress = Progress(n_done)
    _, gradients = meta_gradients_kept(learner, episodes)
    with torch.no_grad():
        for name, gradient in gradients.items():
            learner.get_parameter(name).sub_(gradient / len(episodes))
            learner.get_parameter(name).grad = None


def meta_gradients_kept(learner, episodes):
    loss = learner.meta_loss(episodes).sum()
    loss.backward()
    return loss, {
        n: p.grad for n, p in learner.named_parameters() if n not in learner.own_updates
    }


def adam_state(learner, moments, n_steps):
    """Return what torch's Adam would hold with these second moments."""
    names = [n for n, _ in learner.named_parameters() if n not in learner.own_updates]
    group = torch.optim.Adam([torch.zeros(1)], learner.inner_lr, betas=(0.0, BETA))
    state = group.state_dict()
    state["param_groups"][0]["params"] = list(range(len(names)))
    state["state"] = {
        i: {
            "step": torch.tensor(float(n_steps)),
            "exp_avg": torch.zeros_like(moments[name]),
            "exp_avg_sq": moments[name],
        }
        for i, name in enumerate(names)
    }
    return state


def test_second_moments_go_on_from_update_to_update(method):
    """As torch's Adam keeps them, the mean over tasks after each meta-update."""
    learner = make_learner(mlp(), inner_batch_size=4).train()
    plain, state = copy.deepcopy(learner), None
    for n_done in range(3):
        episodes = make_episodes(seed=n_done)
        plain.progress = Progress(n_done)
        results = [
            plain_inner_loop(
                plain, batches_of_rows(plain, episodes, task), "adam", state
            )
            for task in range(N_TASKS)
        ]
        names = list(results[0][0])
        moments = {
            name: sum(r[2].state_dict()["state"][i]["exp_avg_sq"] for r in results) / 3
            for i, name in enumerate(names)
        }
        state = adam_state(plain, moments, (n_done + 1) * plain.train_steps)
        with torch.no_grad():
            for name in names:
                mean = sum(adapted[name] for adapted, _, _ in results) / N_TASKS
                plain.get_parameter(name).copy_(mean)
        next_update(learner, episodes, n_done)
        for name in names:
            found = learner.get_parameter(name)
            torch.testing.assert_close(found, plain.get_parameter(name))
    learner.eval()
    support = make_episodes(seed=9).support
    adapted = learner.adapt(support)["parameters"]
    rows = [(support.x[0], support.y[0])] * learner.inner_steps
    expected, _, _ = plain_inner_loop(plain, rows, "adam", state)
    assert_same({n: adapted[n][0] for n in expected}, expected)


def test_second_moments_are_those_of_all_parts_of_a_batch():
    whole, parts = (make_learner(mlp()).train() for _ in range(2))
    episodes = make_episodes()
    (whole.meta_loss(episodes).sum() / N_TASKS).backward()
    for task in range(N_TASKS):
        (parts.meta_loss(episodes[task : task + 1]).sum() / N_TASKS).backward()
    for learner in (whole, parts):
        learner.eval()
        assert learner.moments.values.grad is None
    torch.testing.assert_close(whole.moments.values, parts.moments.values)
    assert whole.moments.values[-1].item() == pytest.approx(1 - BETA**4)


def test_an_interrupted_meta_update_leaves_the_mean_over_the_tasks_it_has_seen():
    stopped, alone = (make_learner(mlp()).train() for _ in range(2))
    first = make_episodes()[:1]
    (stopped.meta_loss(first).sum() / N_TASKS).backward()
    alone.meta_loss(first).sum().backward()
    torch.testing.assert_close(
        stopped.eval().moments.values, alone.eval().moments.values
    )


def test_ways_have_second_moments_in_common():
    learner = make_learner(mlp(), "local", head="prototype").train()
    episodes = make_episodes(target="local")
    learner.meta_loss(episodes).sum().backward()
    learner.eval()
    moments = learner.moments.start().values
    assert moments["head.weight"].shape == (1, 1, 5)
    assert moments["head.bias"].shape == (1, 1)
    # A task of more ways than any before starts from the same.
    support = episodes[:1].support
    y = torch.arange(N_SUPPORT)[None]
    more = Rows(support.x, y, support.mask, torch.tensor([N_SUPPORT]))
    outputs = learner.predict(learner.adapt(more), support.x)
    assert outputs.shape == (1, N_SUPPORT, N_SUPPORT)
    assert torch.isfinite(outputs).all()


def test_optimizers_leave_second_moments_alone():
    tasks = make_sinusoids(8, random_state=0)
    options = {"batch_size": 8, "max_iter": 3, "random_state": 0}
    by_sgd = ReptileRegressor(**options).fit(tasks).learner_
    slowly = ReptileRegressor(outer_lr=1e-12, optimizer="adam", **options).fit(tasks)
    values = [one.moments.values.detach() for one in (by_sgd, slowly.learner_)]
    assert all((v > 0).any() and (v >= 0).all() for v in values)
    assert values[0][-1].item() == pytest.approx(1 - BETA**15, rel=1e-4)
    assert values[0][-1] == values[1][-1]


# The meta-step -------------------------------------------------------------------


def test_meta_step_falls_linearly():
    episodes = make_episodes()
    linear = make_learner(mlp(), inner_optimizer="sgd")
    constant = make_learner(mlp(), inner_optimizer="sgd", outer_schedule="constant")
    for n_done in (0, 1, 3):
        for learner in (linear, constant):
            learner.progress = Progress(n_done, 4)
        _, expected = meta_gradients(constant, episodes)
        _, found = meta_gradients(linear, episodes)
        scale = 1 - n_done / 4
        assert_same(found, {n: g * scale for n, g in expected.items()})


class MetaSteps(Callback):
    """Notes the meta-step of every meta-update."""

    def __init__(self, steps):
        self.steps = steps

    def on_batch_end(self, net, training=None, **kwargs):
        if training:
            self.steps.append(float(net.module_.meta_step))


def meta_steps(verb, tasks, times=1, **options):
    steps = []
    meta = ReptileRegressor(
        callbacks=[MetaSteps(steps)],
        batch_size=4,
        max_iter=4,
        random_state=0,
        **options,
    )
    for _ in range(times):
        getattr(meta, verb)(tasks)
    return meta.callbacks[0].steps


def test_meta_step_in_meta_training():
    tasks = make_sinusoids(8, random_state=0)
    assert meta_steps("fit", tasks) == [1, 0.75, 0.5, 0.25]
    assert meta_steps("fit", tasks, outer_schedule="constant") == [1] * 4
    twice = meta_steps("fit", tasks, times=2, warm_start=True)
    assert twice == [1, 0.75, 0.5, 0.25, 0.5, 0.375, 0.25, 0.125]
    assert meta_steps("partial_fit", tasks, times=2) == [1] * 4


def test_recorded_updates_are_the_same():
    """Replays read the meta-step, the order of rows and the moments as they are now."""
    weights, n_programs = [], 0
    for make in (EagerUpdate, make_update):
        learner = make_learner(mlp(), "numbers", inner_batch_size=4).train()
        update = make(learner)
        for n_done in range(60):
            learner.zero_grad(set_to_none=False)
            learner.progress = Progress(n_done, 60)
            update(make_episodes(target="numbers", seed=n_done))
            with torch.no_grad():
                for name, p in learner.named_parameters():
                    if name not in learner.own_updates:
                        p.sub_(p.grad)
        if isinstance(update, RecordedUpdate):
            n_programs = update.n_programs
        weights.append(learner.eval().state_dict())
    assert n_programs == 1
    assert_same(weights[1], weights[0])


def test_updates_in_threads_are_the_same_to_the_last_bit():
    n_threads = torch.get_num_threads()
    weights = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            learner = make_learner(conv_net(), inner_batch_size=4).train()
            update = ThreadedUpdate(learner, parts_of, EagerUpdate(learner))
            for n_done in range(3):
                learner.progress = Progress(n_done, 4)
                update(make_episodes((1, 6, 6), seed=n_done))
            weights.append(learner.eval().moments.values.detach().clone())
            weights.append(learner.head.weight.grad)
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(weights[0], weights[2])
    assert torch.equal(weights[1], weights[3])


# Adaptation ----------------------------------------------------------------------


@pytest.mark.parametrize("target", ["shared", "local", "numbers"])
def test_adaptation_takes_all_rows_in_any_order(target):
    learner = make_learner(mlp(), target, inner_batch_size=2).train()
    episodes = make_episodes(target=target)
    learner.meta_loss(episodes).sum().backward()
    learner.eval()
    support, order = episodes.support, torch.randperm(N_SUPPORT, generator=rng(5))
    shuffled = Rows(
        support.x[:, order], support.y[:, order], support.mask, support.n_way
    )
    outputs = [
        learner.predict(learner.adapt(rows), episodes.query.x)
        for rows in (support, shuffled)
    ]
    torch.testing.assert_close(*outputs)
    assert not any(
        w.requires_grad for w in learner.adapt(support)["parameters"].values()
    )


def test_inductive_prediction_does_not_depend_on_other_query_rows():
    episodes = make_episodes((1, 6, 6))
    for transductive in (False, True):
        learner = make_learner(conv_net(), transductive=transductive).eval()
        state = learner.adapt(episodes.support)
        batch = learner.predict(state, episodes.query.x)[:, :2]
        fewer = learner.predict(state, episodes.query.x[:, :2])
        assert torch.allclose(batch, fewer, rtol=1e-10, atol=1e-12) != transductive


def test_weights_frozen_later_are_neither_adapted_nor_moved():
    learner = make_learner(mlp()).train()
    frozen = learner.backbone.layers[0].requires_grad_(False)
    _, gradients = meta_gradients(learner, make_episodes())
    assert frozen.weight.grad is None
    assert gradients["head.weight"].any()
    assert (
        "backbone.layers.0.weight"
        not in learner.adapt(make_episodes().support)["parameters"]
    )


# The estimators ------------------------------------------------------------------


def test_regressor_learns_sinusoids():
    tasks = make_sinusoids(240, random_state=0)
    options = {"inner_lr": 3e-3, "batch_size": 8, "random_state": 0}
    untrained = ReptileRegressor(max_iter=1, outer_lr=1e-9, **options)
    trained = ReptileRegressor(max_iter=400, **options)
    before = untrained.fit(tasks[:200]).score(tasks[200:])
    assert trained.fit(tasks[:200]).score(tasks[200:]) > before + 0.2


@pytest.mark.parametrize("inner_optimizer", ["adam", "sgd"])
def test_losses_of_any_size_are_reported(inner_optimizer):
    """What carries gradients is nothing beside the losses, not their difference."""
    losses = {}
    for unit in (1.0, 1e3, 1e12):
        tasks = [(w.X, w.y * unit) for w in make_sinusoids(8, random_state=0)]
        meta = ReptileRegressor(
            inner_optimizer=inner_optimizer,
            inner_lr=1e-9 / unit if inner_optimizer == "sgd" else 1e-9,
            normalize_y=False,
            max_iter=2,
            eval_every=1,
            random_state=0,
        )
        meta.fit(TaskSet(tasks))
        losses[unit] = np.array([row["train_loss"] for row in meta.history_]) / unit**2
    # Outputs, of about 1, are nothing beside the largest targets.
    np.testing.assert_allclose(losses[1e12], losses[1e3], rtol=0.05)
    np.testing.assert_allclose(losses[1.0], losses[1e3], rtol=0.7)


@pytest.mark.parametrize(
    ("train_shots", "n_rows"), [(None, 5 + 15), (12, 12), (3, 3), (2, 2)]
)
def test_shots_in_meta_training(monkeypatch, train_shots, n_rows):
    seen = []
    together = reptile._together

    def noted(support, query):
        rows = together(support, query)
        seen.append(rows.mask.shape)
        return rows

    monkeypatch.setattr(reptile, "_together", noted)
    tasks = make_sinusoids(8, random_state=0)
    meta = ReptileRegressor(train_shots=train_shots, max_iter=2, batch_size=4)
    meta.fit(tasks)
    # Before them, its memory is measured on one task.
    assert seen[-2:] == [(4, n_rows)] * 2
    with pytest.raises(ValueError, match="train_shots=9 acts in meta-training only"):
        meta.set_params(train_shots=9).score(tasks)


def test_shots_in_meta_training_are_per_class_with_local_labels(monkeypatch):
    seen = []
    together = reptile._together
    monkeypatch.setattr(
        reptile, "_together", lambda *rows: seen.append(together(*rows)) or seen[-1]
    )
    ReptileClassifier(
        lambda shape: ConvNet(shape, 2, 2), n_way=3, n_shot=1, train_shots=4, max_iter=1
    ).fit(load_digits_pool())
    for rows in seen:
        for y in rows.y:
            assert y.bincount().tolist() == [4, 4, 4]


def test_held_out_tasks_are_judged_with_n_shot(monkeypatch):
    judged = []
    adapt = Reptile.adapt
    monkeypatch.setattr(
        Reptile,
        "adapt",
        lambda self, s: judged.append(s.mask.shape[1]) or adapt(self, s),
    )
    tasks = make_sinusoids(30, random_state=0)
    meta = ReptileRegressor(n_shot=3, train_shots=10, max_iter=1, early_stopping=True)
    meta.fit(tasks)
    assert set(judged) == {3}
    assert "valid_loss" in meta.history_[-1]


def test_one_inner_step_is_warned_of():
    tasks = make_sinusoids(8, random_state=0)
    meta = ReptileRegressor(train_steps=1, max_iter=1)
    for verb in ("fit", "partial_fit"):
        with pytest.warns(UserWarning, match="train_steps=1 is joint training"):
            getattr(meta, verb)(tasks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        meta.adapt(tasks[0].X[:5], tasks[0].y[:5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_optimizer": "rmsprop"}, "inner_optimizer"),
        ({"outer_schedule": "cosine"}, "outer_schedule"),
        ({"inner_lr": 0.0}, "inner_lr"),
        ({"inner_steps": -1}, "inner_steps"),
        ({"train_steps": 0}, "train_steps"),
        ({"train_shots": 1}, "train_shots"),
        ({"inner_batch_size": 0}, "inner_batch_size"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        ReptileRegressor(**options).fit(make_sinusoids(8, random_state=0))


@pytest.mark.parametrize("head", ["shared", "prototype"])
def test_nothing_to_meta_learn(head):
    """A backbone without weights, and heads that start from constants or features."""
    pool = load_digits_pool()
    rows = pool.X.reshape(len(pool.X), -1).astype(float)
    pool = ClassPool(rows, pool.y)
    meta = ReptileClassifier("identity", head=head, n_way=3, max_iter=2, random_state=0)
    meta.fit(pool[:5])
    model = meta.adapt(rows[::100], pool.y[::100])
    assert np.isfinite(model.predict_proba(rows[:3])).all()
