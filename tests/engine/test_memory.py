"""Memory of a meta-update: predicted, kept within a limit, refused in time."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sklmeta import MAMLClassifier, MAMLRegressor, ProtoNetClassifier, TaskSet
from sklmeta.backbones import MLP, ConvNet
from sklmeta.datasets import load_digits_pool, make_sinusoids
from sklmeta.engine import memory
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.byte_counts import as_bytes
from sklmeta.engine.learner import Learner, Progress
from sklmeta.engine.memory import (
    MemoryBudget,
    MemoryLimitExceeded,
    TaskMemory,
    peak_bytes,
    predicted_bytes,
    task_memory,
)
from sklmeta.engine.updates import make_update, parts_of
from sklmeta.gradient import MAML


def rng(seed):
    return torch.Generator().manual_seed(seed)


def make_rows(shape, n_tasks, n_rows, seed):
    x = torch.randn(n_tasks, n_rows, *shape, generator=rng(seed))
    y = torch.randn(n_tasks, n_rows, 1, generator=rng(seed + 1))
    return Rows(x, y, torch.ones(n_tasks, n_rows, dtype=torch.bool))


def make_episodes(shape, n_tasks, n_rows=5):
    return Episodes(
        make_rows(shape, n_tasks, n_rows, 0), make_rows(shape, n_tasks, 2 * n_rows, 2)
    )


def mlp():
    return MLP(6, (32, 16), generator=rng(0)), (6,), 16


def conv():
    return ConvNet((1, 12, 12), 8, 2, generator=rng(0)), (1, 12, 12), 72


def layer_norm():
    layers = nn.Linear(6, 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 16)
    with torch.random.fork_rng(devices=[]):
        return nn.Sequential(*layers), (6,), 16


def dropping():
    with torch.random.fork_rng(devices=[]):
        layers = nn.Linear(6, 32), nn.Dropout(0.3), nn.Tanh(), nn.Linear(32, 16)
        return nn.Sequential(*layers), (6,), 16


def make_learner(make=mlp, **options):
    backbone, shape, n_features = make()
    settings = {"inner_steps": 3, "generator": rng(1), **options}
    return MAML(backbone, n_features, 1, task_type="regression", **settings), shape


def true_peak(run):
    """Return the most bytes that torch's allocator had given out at a time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    events = [
        event
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("n_tasks", [1, 7])
@pytest.mark.parametrize("make", [mlp, conv, layer_norm])
def test_prediction_holds_against_the_allocator(make, n_tasks, checkpoint):
    learner, shape = make_learner(make, checkpoint_steps=checkpoint)
    episodes = make_episodes(shape, n_tasks)
    predicted = predicted_bytes(learner, episodes)
    true = true_peak(lambda: learner.meta_loss(episodes).sum().backward())
    assert 1 / 1.5 < predicted / true < 1.5


def test_prediction_for_more_rows_errs_on_the_safe_side():
    learner, shape = make_learner()
    few = task_memory(learner, make_episodes(shape, 1, n_rows=4))
    many = predicted_bytes(learner, make_episodes(shape, 3, n_rows=5))
    assert many < few.of(3, 15) < 1.7 * many
    assert few.of(2, 3) == few.of(2, 12)


def test_grows_linearly_with_inner_steps():
    learner, shape = make_learner()
    episodes = make_episodes(shape, 2)
    sizes = [
        predicted_bytes(learner.with_options(inner_steps=n), episodes)
        for n in (4, 6, 8, 10)
    ]
    growth = np.diff(sizes)
    assert growth.min() > 0
    np.testing.assert_allclose(growth, growth[0], rtol=0.02)


def test_measuring_leaves_the_learner_alone():
    backbone = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5))
    learner = MAML(backbone, 16, 1, task_type="regression").eval()
    before, state = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    predicted_bytes(learner, make_episodes((6,), 2))
    assert not any(layer.training for layer in learner.modules())
    assert all(p.grad is None for p in learner.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[n]) for n, v in learner.state_dict().items())


@pytest.mark.parametrize("n_done", [0, 50, 200])
def test_measuring_during_annealing_changes_nothing(n_done):
    learner, shape = make_learner(multi_step_loss=100)
    learner.progress = Progress(n_done, 1000)
    importance = learner.importance
    before = None if importance is None else importance.clone()
    episodes = make_episodes(shape, 2)
    expected = learner.meta_loss(episodes)
    predicted_bytes(learner, episodes)
    assert learner.progress == Progress(n_done, 1000)
    assert learner.importance is importance
    assert before is None or torch.equal(importance, before)
    assert torch.equal(learner.meta_loss(episodes), expected)


def test_second_order_later_is_predicted_from_the_first():
    sizes = []
    for second_order_from in (0, 2):
        learner, shape = make_learner(second_order_from=second_order_from)
        sizes.append(predicted_bytes(learner, make_episodes(shape, 2)))
    assert sizes[0] == sizes[1]


def test_adapting_takes_no_more_for_more_steps():
    learner, shape = make_learner()
    support = make_episodes(shape, 2).support
    sizes = []
    for n_steps in (1, 50):
        view = learner.with_options(inner_steps=n_steps)
        with torch.no_grad():
            sizes.append(peak_bytes(lambda view=view: view.adapt(support)))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.5)


class Pairing(Learner):
    """Compares every query row to every other one."""

    def __init__(self):
        super().__init__("regression")
        self.weight = nn.Parameter(torch.ones(6, 6))

    def meta_loss(self, episodes):
        x = episodes.query.x @ self.weight
        return (x @ x.mT).softmax(-1).exp().sum((1, 2))


class TestPeakBytes:
    def test_counts_what_lives_at_once(self):
        def run():
            for _ in range(5):
                torch.zeros(1000)
            return torch.zeros(10)

        assert peak_bytes(run) == 4000

    def test_views_and_known_tensors_are_free(self):
        x = torch.zeros(100, 10)
        assert peak_bytes(lambda: x.view(-1)[5:].unsqueeze(0), [x]) == 0

    def test_saved_tensors_live_on(self):
        x = torch.zeros(1000, requires_grad=True)
        # exp keeps its result, sin its input; the last gradient is not made.
        assert peak_bytes(lambda: x.exp().sin().exp(), [x]) == 12000

    def test_stops_at_a_limit(self):
        made = []

        def run():
            for _ in range(10):
                made.append(torch.zeros(1000))

        with pytest.raises(MemoryLimitExceeded):
            peak_bytes(run, limit=10_000)
        assert len(made) == 2


class TestBudget:
    def budget(self, learner, episodes, n_tasks):
        """Return a budget for so many tasks."""
        measured = task_memory(learner, episodes)
        return MemoryBudget(measured.of(n_tasks, 15) + 100)

    @pytest.mark.parametrize("n_tasks", [1, 2, 3, 5])
    def test_parts_fit_and_give_the_same_gradient(self, n_tasks):
        learner, shape = make_learner()
        episodes = make_episodes(shape, 8)
        make_update(learner)(episodes)
        expected = [p.grad.clone() for p in learner.parameters()]
        learner.zero_grad()
        learner.budget = self.budget(learner, episodes, n_tasks)
        assert max(map(len, parts_of(learner, episodes))) == n_tasks
        make_update(learner)(episodes)
        for p, g in zip(learner.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6)

    def test_true_peak_keeps_to_the_limit(self):
        learner, shape = make_learner()
        episodes = make_episodes(shape, 12)
        learner.budget = self.budget(learner, episodes, 4)
        update = make_update(learner)
        assert true_peak(lambda: update(episodes)) < 1.15 * learner.budget.limit

    def test_all_together_where_they_fit(self):
        learner, shape = make_learner()
        episodes = make_episodes(shape, 4)
        assert MemoryBudget(10**9).n_tasks(learner, episodes) is None
        learner.budget = MemoryBudget(10**9)
        assert [len(part) for part in parts_of(learner, episodes)] == [4]

    def test_none_means_half_of_what_is_free(self, monkeypatch):
        learner, shape = make_learner()
        episodes = make_episodes(shape, 8)
        measured = task_memory(learner, episodes)
        free = 2 * measured.of(3, 15) + 100
        monkeypatch.setattr(memory, "free_bytes", lambda device: free)
        assert MemoryBudget(None).n_tasks(learner, episodes) == 3
        free = measured.of(1, 15) + 100  # one task needs more than half, and fits
        assert MemoryBudget(None).n_tasks(learner, episodes) == 1
        free = measured.of(1, 15) // 2
        with pytest.raises(ValueError, match="free memory is"):
            MemoryBudget(None).n_tasks(learner, episodes)
        free = None
        assert MemoryBudget(None).n_tasks(learner, episodes) is None

    def test_tasks_of_more_rows_go_in_smaller_parts(self):
        learner, shape = make_learner()
        small, large = (make_episodes(shape, 8, n_rows=n) for n in (4, 16))
        budget = MemoryBudget(task_memory(learner, small).of(6, 12))
        few, many = budget.n_tasks(learner, large), budget.n_tasks(learner, small)
        assert 1 <= few < many == 6

    def test_rows_that_are_compared_to_rows(self):
        learner, limit = Pairing(), 1_900_000
        budget = MemoryBudget(limit)
        for n_rows in (86, 100, 120, 150, 170):
            episodes = make_episodes((6,), 16, n_rows=n_rows)
            n_tasks = budget.n_tasks(learner, episodes)
            part = episodes[torch.arange(n_tasks)]
            assert n_tasks == 1 or predicted_bytes(learner, part) <= limit

    def test_what_takes_no_graph_says_nothing_of_what_does(self):
        learner, shape = make_learner(inner_steps=5)
        episodes = make_episodes(shape, 8)
        budget = self.budget(learner, episodes, 2)
        with torch.no_grad():
            without = budget.n_tasks(learner, episodes)
        assert without is None or without > 2
        assert budget.n_tasks(learner, episodes) == 2

    def test_draws_do_not_depend_on_what_is_free(self, monkeypatch):
        learner, shape = make_learner(dropping)
        episodes = make_episodes(shape, 8)
        measured = task_memory(learner, episodes)
        monkeypatch.setattr(memory, "SAME_EVERYWHERE", measured.of(3, 15) + 100)

        def n_tasks(free):
            monkeypatch.setattr(memory, "free_bytes", lambda device: free)
            return MemoryBudget(None).n_tasks(learner, episodes)

        enough = 4 * measured.of(3, 15), 10**12, None
        assert [n_tasks(free) for free in enough] == [6, None, None]
        learner.draws_randomly = True
        assert [n_tasks(free) for free in enough] == [3, 3, 3]
        assert n_tasks(measured.of(2, 15) + 100) == 2  # a machine that has not so much
        assert MemoryBudget(10**9).n_tasks(learner, episodes) is None
        with pytest.raises(ValueError, match="free memory is"):
            n_tasks(measured.of(1, 15) // 2)

    def test_limits_of_one_measurement(self):
        measured = TaskMemory(shared=100, per_task=10, n_rows=5)
        assert measured.of(3, 5) == 130
        assert measured.n_tasks(130, 5) == 3
        assert measured.n_tasks(99, 5) == 0
        assert measured.n_tasks(140, 10) == 1
        assert measured.n_tasks(139, 10) == 0


@pytest.fixture(scope="module")
def waves():
    return make_sinusoids(30, random_state=0)


class TestRefusals:
    def test_a_limit_too_small_for_one_task(self, waves):
        meta = MAMLRegressor(memory_limit="10kB", random_state=0)
        message = (
            r"single task \(5 \+ 15 rows.*take about [\d.]+ kB, and memory_limit is 10 "
            r"kB\. Use fewer inner_steps, .*first_order=True.*checkpoint_steps=True.*"
            r"ANIL.*implicit MAML"
        )
        with pytest.raises(ValueError, match=message):
            meta.fit(waves)
        assert not hasattr(meta, "learner_")

    def test_prediction_goes_on_along_the_line_of_few_steps(self, waves):
        def needed(steps):
            with pytest.raises(ValueError, match="single task") as caught:
                MAMLRegressor(inner_steps=steps, memory_limit="1MB").fit(waves)
            text = str(caught.value).partition("about ")[2].split(",")[0]
            return as_bytes(text)

        few, many = needed(100), needed(10_000)
        assert many == pytest.approx(100 * few, rel=0.05)

    def test_what_it_cannot_tell(self, waves, monkeypatch):
        monkeypatch.setattr(memory, "free_bytes", lambda device: None)
        with pytest.raises(ValueError, match="more than 100 B"):
            MAMLRegressor(memory_limit=100).fit(waves)

    def test_learners_without_inner_steps(self):
        pool = load_digits_pool()
        meta = ProtoNetClassifier(memory_limit=1000)
        with pytest.raises(ValueError, match=r"about .* kB.*fewer rows .* a smal"):
            meta.fit(pool)

    def test_checkpointing_helps(self, waves):
        def backbone(shape):
            return MLP(shape[0], (8, 8), generator=rng(0))

        options = {"inner_steps": 40, "n_shot": 15, "max_iter": 1, "random_state": 0}
        options = {"backbone": backbone, **options}
        learner = MAMLRegressor(**options).fit(waves).learner_
        limit = predicted_bytes(learner, make_episodes((1,), 1, n_rows=15)) // 2
        with pytest.raises(ValueError, match="checkpoint_steps=True"):
            MAMLRegressor(**options, memory_limit=limit).fit(waves)
        MAMLRegressor(**options, memory_limit=limit, checkpoint_steps=True).fit(waves)

    @pytest.mark.parametrize(
        ("limit", "error"),
        [
            *((bad, ValueError) for bad in (0, -1, "", "GB", "4 apples", "-1GB")),
            *((bad, TypeError) for bad in (1.5, True, [1])),
        ],
    )
    def test_limits_that_are_none(self, limit, error, waves):
        with pytest.raises(error, match="memory_limit must be a number of bytes"):
            MAMLRegressor(memory_limit=limit).fit(waves)


class TestEstimators:
    def test_a_limit_changes_nothing_but_rounding(self, waves):
        options = {"max_iter": 3, "random_state": 0}
        free = MAMLRegressor(**options).fit(waves)
        bounded = MAMLRegressor(**options, memory_limit="300kB").fit(waves)
        own = dict(bounded.learner_.named_parameters())
        for name, weight in free.learner_.named_parameters():
            torch.testing.assert_close(own[name], weight, rtol=1e-3, atol=1e-5)

    def test_many_predictions_keep_to_it(self, waves, monkeypatch):
        meta = MAMLRegressor(max_iter=1, random_state=0).fit(waves)
        supports = TaskSet([(task.X[:5], task.y[:5]) for task in waves])
        queries = [task.X[5:] for task in waves]
        expected = meta.predict_tasks(supports, queries)
        meta.set_params(memory_limit="500kB")
        sizes = []
        one = memory.MemoryBudget.n_tasks

        def n_tasks(self, learner, episodes):
            sizes.append(one(self, learner, episodes))
            return sizes[-1]

        monkeypatch.setattr(memory.MemoryBudget, "n_tasks", n_tasks)
        found = meta.predict_tasks(supports, queries)
        assert 1 <= sizes[0] < len(supports)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        with pytest.raises(ValueError, match="Predicting a single task"):
            meta.set_params(memory_limit=1000).predict_tasks(supports, queries)

    def test_fitted_estimators_hold_no_budget(self, waves):
        meta = MAMLRegressor(max_iter=1, memory_limit="1GB").fit(waves)
        assert meta.learner_.budget is None
        model = pickle.loads(pickle.dumps(meta.adapt(waves[0].X, waves[0].y)))
        assert model.predict(waves[0].X).shape == waves[0].y.shape

    def test_images(self):
        pool = load_digits_pool()
        meta = MAMLClassifier(
            lambda shape: ConvNet(shape, 4, 2),
            image_shape=(8, 8),
            n_shot=1,
            max_iter=1,
            memory_limit="20kB",
        )
        with pytest.raises(ValueError, match="single task"):
            meta.fit(pool)
        meta.set_params(memory_limit="200MB").fit(pool)
