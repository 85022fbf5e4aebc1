"""Tasks shared out over threads: equal to the last bit to one after another."""

import copy
import os
import random
import signal
import threading
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sklmeta.backbones import MLP, ConvNet
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.inference import run_episodes
from sklmeta.engine.learner import Learner
from sklmeta.engine.threads import ThreadedUpdate, in_threads, one_thread, replicas
from sklmeta.engine.updates import EagerUpdate, make_update, parts_of
from sklmeta.gradient import MAML
from sklmeta.metric import ProtoNet


@pytest.fixture(autouse=True)
def three_threads():
    """Let torch have three threads; it still has afterwards, and none is left."""
    torch.set_num_threads(3)
    others = threading.active_count()
    yield
    assert torch.get_num_threads() == 3
    assert threading.active_count() == others
    torch.set_num_threads(1)


def images(n_tasks=7, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def rows(n):
        x = torch.rand(n_tasks, n, 1, 8, 8, generator=generator)
        mask = torch.ones(n_tasks, n, dtype=torch.bool)
        mask[1, -1] = False  # tasks of different sizes
        return Rows(x, torch.arange(n).remainder(2).expand(n_tasks, -1), mask)

    return Episodes(rows(4), rows(6))


def maml(backbone=None, n_features=8, **options):
    generator = torch.Generator().manual_seed(0)
    backbone = backbone or ConvNet((1, 8, 8), 8, 2, generator=generator)
    n_features = getattr(backbone, "out_features", n_features)
    options = {"task_type": "classification", "inner_lr": 0.1, **options}
    return MAML(backbone, n_features, 2, generator=generator, **options).train()


def gradients(learner, update, batch):
    learner.zero_grad()
    loss = update(batch)
    return [loss, *(p.grad.clone() for p in learner.parameters() if p.grad is not None)]


def threaded(learner):
    """Return an update that knows already that the learner leaves no trace."""
    update = ThreadedUpdate(learner, parts_of, EagerUpdate(learner))
    update.leaves_trace = False
    return update


@pytest.mark.parametrize("options", [{}, {"inner_steps": 2}, {"first_order": True}])
def test_equal_to_one_thread_to_the_last_bit(options):
    learner, batch = maml(**options), images()
    with one_thread():
        expected = gradients(learner, EagerUpdate(learner), batch)
    update = threaded(learner)
    for _ in range(3):
        for found, same in zip(
            gradients(learner, update, batch), expected, strict=True
        ):
            assert torch.equal(found, same)


def test_gradients_are_added_to_those_there_are():
    learner, batch = maml(), images()
    update = threaded(learner)
    once = gradients(learner, update, batch)
    update(batch)
    for found, parameter in zip(once[1:], learner.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, 2 * found)
        assert parameter.grad.stride() == parameter.stride()


def test_weights_without_gradient_stay_without():
    learner = maml(nn.Sequential(nn.Conv2d(1, 8, 8), nn.Flatten()))
    learner.extra = nn.Parameter(torch.ones(2))
    learner.head.bias.requires_grad_(False)
    threaded(learner)(images())
    assert learner.extra.grad is None
    assert learner.head.bias.grad is None
    assert learner.head.weight.grad is not None


def test_convolutions_on_the_cpu_are_shared_out():
    assert isinstance(make_update(maml()), ThreadedUpdate)
    rows = maml(MLP(4, (3,)), 3)
    assert not isinstance(make_update(rows), ThreadedUpdate)


def test_learner_is_found_to_leave_no_trace_and_is_left_as_it_is():
    learner, batch = maml(), images()
    before = copy.deepcopy(learner.state_dict())
    update = make_update(learner)
    first, second = (gradients(learner, update, batch) for _ in range(2))
    assert update.leaves_trace is False
    assert all(map(torch.equal, first, second))
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name])
    for module in learner.modules():
        assert getattr(module, "_mode", "plain") == "plain"


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.n_calls = nn.Conv2d(1, 8, 8), 0

    def forward(self, x):
        self.n_calls += 1
        return self.conv(x).flatten(1)


class Drawing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.source = nn.Conv2d(1, 8, 8), torch.Generator()

    def forward(self, x):
        x = x + torch.rand(x.shape, generator=self.source)
        return self.conv(x).flatten(1)


class Moving(nn.Module):
    """Counts its calls in what `make` returns, and computes with the number."""

    def __init__(self, make, count):
        super().__init__()
        self.conv, self.state, self.count = nn.Conv2d(1, 8, 8), make(), count

    def forward(self, x):
        return self.conv(x).flatten(1) * (1 + 1 / (1 + self.count(self.state)))


def count_in_tensor(state):
    with torch.no_grad():
        return state.add_(1).item()


def count_in_data(state):
    state.data += 1  # does not raise the version
    return state.item()


def count_in_dict(state):
    state["n"] += 1
    return state["n"]


def closure():
    numbers = iter(range(10_000))
    return lambda: next(numbers)


MOVING = {
    "tensor": (lambda: torch.zeros(()), count_in_tensor),
    "data": (lambda: torch.zeros(()), count_in_data),
    "frozen": (
        lambda: nn.Parameter(torch.zeros(()), requires_grad=False),
        count_in_tensor,
    ),
    "dict": (lambda: {"n": 0}, count_in_dict),
    "nested": (lambda: {"n": 0, "other": [nn.Linear(2, 2)]}, count_in_dict),
    "numpy": (lambda: np.random.RandomState(0), lambda state: state.normal()),
    "numpy's": (lambda: None, lambda state: np.random.normal()),  # noqa: NPY002
    "Python's": (lambda: None, lambda state: random.random()),
    "closure": (closure, lambda state: state()),
}


def dropping():
    return nn.Sequential(nn.Dropout(0.5), nn.Conv2d(1, 8, 8), nn.Flatten())


@pytest.fixture
def _generators_put_back():
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002


@pytest.mark.usefixtures("_generators_put_back")
@pytest.mark.parametrize("kind", MOVING)
def test_state_of_any_kind_is_a_trace(kind):
    batches = [images(seed=seed) for seed in range(3)]

    def run(make):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            learner = maml(Moving(*MOVING[kind]))
        random.seed(0), np.random.seed(0)  # noqa: NPY002
        update = make(learner)
        with one_thread() if make is EagerUpdate else nullcontext():
            return update, [gradients(learner, update, batch) for batch in batches][-1]

    update, found = run(make_update)
    assert update.leaves_trace
    _, expected = run(EagerUpdate)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_state_that_stays_is_no_trace():
    learner, batch = maml(nn.Sequential(nn.Conv2d(1, 8, 8), nn.Flatten())), images()
    slope = 0.1
    learner.backbone.activation = lambda z: torch.nn.functional.leaky_relu(z, slope)
    learner.backbone.note = {"numbers": np.arange(3), "tensor": torch.ones(2)}
    learner.backbone.register_forward_hook(lambda layer, args, output: output * 2)
    update = make_update(learner)
    update(batch)
    assert update.leaves_trace is False


def test_loss_keeps_its_precision():
    learner, batch = maml().double(), images()
    support, query = (
        replace(rows, x=rows.x.double()) for rows in (batch.support, batch.query)
    )
    batch = Episodes(support, query)
    loss = threaded(learner)(batch)
    assert loss.dtype == torch.float64
    with one_thread():
        assert torch.equal(loss, EagerUpdate(learner)(batch))


@pytest.mark.parametrize("backbone", [Counting, Drawing, dropping])
def test_learners_that_a_task_changes_are_not_shared_out(backbone):
    learner, batch = maml(backbone()), images()
    update = make_update(learner)
    torch.manual_seed(0)
    first = gradients(learner, update, batch)
    assert update.leaves_trace
    torch.manual_seed(0)
    again = gradients(learner, update, batch)
    if backbone is dropping:
        assert all(
            torch.allclose(a, b, atol=1e-6) for a, b in zip(first, again, strict=True)
        )
    if backbone is Counting:
        assert learner.backbone.n_calls == 4 * len(batch)


def test_running_averages_are_moved_task_after_task():
    batch = images()
    backbone = ConvNet((1, 8, 8), 4, 2, generator=torch.Generator().manual_seed(0))
    learner = ProtoNet(backbone, 2).train()
    serial = copy.deepcopy(learner)
    update = make_update(learner)
    for _ in range(2):
        gradients(learner, update, batch)
        gradients(serial, EagerUpdate(serial), batch)
    assert update.leaves_trace
    for found, expected in zip(learner.buffers(), serial.buffers(), strict=True):
        torch.testing.assert_close(found, expected)


def test_what_cannot_be_copied_is_not_shared_out():
    learner, batch = maml(), images()
    expected = gradients(learner, threaded(learner), batch)
    learner.lock = threading.Lock()
    assert replicas(learner, 2) == []
    found = gradients(learner, threaded(learner), batch)
    assert all(map(torch.equal, found, expected))


def test_replicas_share_weights_and_nothing_else():
    learner = maml()
    one, other = replicas(learner, 2)
    assert one.backbone is not other.backbone
    assert one.weights_id is not learner.weights_id
    for mine, its in zip(one.parameters(), learner.parameters(), strict=True):
        assert mine is its
    one.backbone.blocks[0][0].weight = nn.Parameter(torch.zeros(8, 1, 3, 3))
    assert other.backbone.blocks[0][0].weight is learner.backbone.blocks[0][0].weight


class Failing(Learner):
    """Refuses tasks by the number in their rows."""

    def __init__(self, bad):
        super().__init__("regression")
        self.weight, self.bad = nn.Parameter(torch.ones(())), bad

    def meta_loss(self, episodes):
        number = int(episodes.support.x[0, 0, 0])
        if number in self.bad:
            raise ValueError(f"Task {number} is bad.")
        return self.weight * episodes.support.x.sum((1, 2))


def numbered(n_tasks=20):
    x = torch.arange(float(n_tasks)).view(-1, 1, 1)
    rows = Rows(x, x, torch.ones(n_tasks, 1, dtype=torch.bool))
    return Episodes(rows, rows)


def one_by_one(learner, batch):
    return batch.parts(1, equal_rows=False)


def test_first_error_is_carried_over():
    learner = Failing(bad=(5, 6, 7, 13))
    update = ThreadedUpdate(learner, one_by_one, EagerUpdate(learner))
    update.leaves_trace = False
    for _ in range(5):
        with pytest.raises(ValueError, match=r"^Task 5 is bad\.$"):
            update(numbered())


def test_interrupts_end_all_threads():
    learner = Failing(bad=())
    done, stop = [], threading.Event()

    def function(worker, item):
        done.append(item)
        if item == 2:
            raise KeyboardInterrupt
        stop.wait(0.01)

    with pytest.raises(KeyboardInterrupt):
        in_threads(function, replicas(learner, 3), range(1000), lambda result: None)
    assert len(done) < 100


@pytest.fixture
def _ctrl_c_interrupts():
    """Python's own handler, where the tests run in the background without one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
@pytest.mark.usefixtures("_ctrl_c_interrupts")
def test_ctrl_c_ends_all_threads():
    done = []

    def function(worker, item):
        done.append(item)
        if item == 5:
            os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.01)

    with pytest.raises(KeyboardInterrupt):
        in_threads(function, replicas(Failing(()), 3), range(2000), lambda result: None)
    assert len(done) < 1000


def test_results_come_in_order():
    found = []

    def function(worker, item):
        threading.Event().wait(0.005 if item % 3 == 0 else 0)
        assert torch.get_num_threads() == 1
        torch.ones(100, 100) @ torch.ones(100, 100)
        assert torch.get_num_threads() == 1
        return item

    in_threads(function, replicas(Failing(()), 3), range(20), found.append)
    assert found == list(range(20))


def test_other_threads_begin_with_the_number_that_the_user_set():
    numbers = []

    def function(worker, item):
        thread = threading.Thread(
            target=lambda: numbers.append(torch.get_num_threads())
        )
        thread.start(), thread.join()

    in_threads(function, replicas(Failing(()), 3), range(30), lambda result: None)
    assert set(numbers) == {3}


def test_predictions_of_many_episodes_are_those_of_one_after_another():
    learner, batch = maml(inner_steps=2).eval(), images()
    found = run_episodes(learner, batch)
    with one_thread():
        expected = run_episodes(learner, batch)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


def test_errors_of_predicting_are_carried_over():
    learner, batch = maml().eval(), images()
    learner.head = None
    learner.backbone.blocks[1][0].weight = nn.Parameter(torch.zeros(1, 1, 3, 3))
    with pytest.raises(RuntimeError, match="channels"):
        run_episodes(learner, batch)
