"""Recorded meta-updates: the same as eager ones, and never a stale one."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import sklmeta.engine.recorded as recording
from sklmeta.backbones import MLP
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.buckets import Buckets
from sklmeta.engine.learner import Learner, Progress
from sklmeta.engine.programs import replayed, replays
from sklmeta.engine.recorded import RecordedUpdate, can_be_recorded
from sklmeta.engine.updates import EagerUpdate, parts_of
from sklmeta.gradient import ANIL, MAML, MetaSGD


def rows(n_tasks, n_rows, seed, n_ways=None, ragged=False, n_features=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_tasks, n_rows, n_features, generator=generator).double()
    mask = torch.ones(n_tasks, n_rows, dtype=torch.bool)
    if ragged:
        mask[::2, n_rows - 1 :] = False
    if n_ways is None:
        y = x.sum(2, keepdim=True).sin()
        return Rows(x, y, mask)
    n_way = torch.full((n_tasks,), n_ways)
    if ragged:
        n_way[1] -= 1
    y = torch.arange(n_rows) % n_way[:, None]
    return Rows(x, y, mask, n_way)


def episodes(seed=0, n_tasks=4, n_support=6, n_query=5, **options):
    support = rows(n_tasks, n_support, seed, **options)
    query = rows(n_tasks, n_query, seed + 100, **options)
    if support.n_way is not None:
        query = Rows(query.x, query.y, query.mask, support.n_way)
    return Episodes(support, query)


def learner_of(kind=MAML, backbone=None, n_outputs=1, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    task_type = "regression" if n_outputs == 1 else "classification"
    backbone = backbone or MLP(3, (8, 6), generator=generator)
    options = {"inner_lr": 0.1, "inner_steps": 2, **options}
    learner = kind(
        backbone, 6, n_outputs, task_type=task_type, generator=generator, **options
    )
    return learner.double()


def normalised(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Tanh())


def recorded(learner, patience=0, **options):
    options = {"programs": replays, "patience": patience, **options}
    reasons = []
    update = RecordedUpdate(learner, parts_of, on_refusal=reasons.append, **options)
    update.reasons = reasons
    return update


def results(update, batch):
    """Return loss and gradients of an update."""
    for parameter in update.learner.parameters():
        parameter.grad = None
    loss = update(batch)
    gradients = [p.grad for p in update.learner.parameters()]
    return [loss, *(None if g is None else g.clone() for g in gradients)]


def assert_same(found, expected, **tolerance):
    for own, other in zip(found, expected, strict=True):
        assert (own is None) == (other is None)
        if own is not None:
            torch.testing.assert_close(own, other, **tolerance)
            assert own.stride() == other.stride()


def check_follows(learner, batches):
    """Return the update, after as many batches as there are."""
    update, eager = recorded(learner), EagerUpdate(learner)
    for batch in batches:
        assert_same(results(update, batch), results(eager, batch))
    return update


BATCHES = [episodes(seed) for seed in range(5)]
LOCAL = [episodes(seed, n_ways=3) for seed in range(5)]
MIXED = [episodes(seed, n_ways=3, ragged=True) for seed in range(5)]


@pytest.mark.parametrize("kind", [MAML, ANIL, MetaSGD])
def test_regression_is_the_same(kind):
    update = check_follows(learner_of(kind), BATCHES)
    assert update.n_programs == 1 and not update.reasons


@pytest.mark.parametrize("batches", [LOCAL, MIXED], ids=["equal", "different"])
@pytest.mark.parametrize("head", ["shared", "prototype", "fixed"])
def test_classification_is_the_same(head, batches):
    learner = learner_of(n_outputs=None, head=head, n_ways=3).train()
    update = check_follows(learner, batches)
    assert update.n_programs == 1 and not update.reasons


@pytest.mark.parametrize(
    "options",
    [{"first_order": True}, {"backbone": normalised()}, {"inner_steps": 0}],
    ids=["first order", "vmap", "no steps"],
)
def test_options_are_the_same(options):
    check_follows(learner_of(**options), BATCHES)


@pytest.mark.parametrize("backbone", [None, normalised()], ids=["bmm", "vmap"])
@pytest.mark.parametrize("way", ["autograd", "as it is", "simplified"])
def test_second_order_gradients_are_those_of_finite_differences(way, backbone):
    learner = learner_of(backbone=copy.deepcopy(backbone), inner_steps=3)
    batch = episodes()
    if way == "autograd":
        update = EagerUpdate(learner)
    else:
        plain = way == "as it is"
        programs = (lambda one, _: iter([replayed(one)])) if plain else replays
        update = recorded(learner, programs=programs)
        for _ in range(2):
            update(batch)
        assert update.n_programs == 1
    results(update, batch)
    generator = torch.Generator().manual_seed(1)
    for parameter in learner.parameters():
        direction = torch.randn(parameter.shape, generator=generator).double()
        slope = (parameter.grad * direction).sum()

        def loss_at(step, parameter=parameter, direction=direction):
            with torch.no_grad():
                parameter += step * direction
                loss = learner.meta_loss(batch).mean()
                parameter -= step * direction
            return loss

        h = 1e-4
        near = (loss_at(h) - loss_at(-h)) / (2 * h)
        far = (loss_at(2 * h) - loss_at(-2 * h)) / (4 * h)
        torch.testing.assert_close(slope, (4 * near - far) / 3, rtol=1e-6, atol=1e-9)


def test_gradients_are_added_to_those_that_are_there():
    learner = learner_of()
    update, batch = recorded(learner), BATCHES[0]
    once = results(update, batch)
    for _ in range(3):
        results(update, batch)
    update(batch)
    for parameter, gradient in zip(learner.parameters(), once[1:], strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)


def test_options_changed_on_the_way_are_followed():
    learner = learner_of()
    update, eager = recorded(learner), EagerUpdate(learner)
    for inner_lr, inner_steps in ((0.1, 2), (0.3, 2), (0.3, 1), (0.1, 2)):
        learner.inner_lr, learner.inner_steps = inner_lr, inner_steps
        for batch in BATCHES[:3]:
            assert_same(results(update, batch), results(eager, batch))
    assert update.n_programs == 3


def test_numbers_of_numpy_that_change_on_the_way_are_followed():
    """Objects that are gone leave their ids to others."""
    learner = learner_of()
    update, eager = recorded(learner), EagerUpdate(learner)
    rates = np.linspace(0.1, 0.6, 12)
    for place in range(len(rates)):
        learner.inner_lr = rates[place]
        for batch in BATCHES[:3]:
            found = results(update, batch)
        assert_same(found, results(eager, batch))
    assert update.n_programs == len(rates)


class Rates:
    """Not a number, and not the same for long."""

    def __init__(self, rate):
        self.rate = rate

    def __float__(self):
        return self.rate


@pytest.mark.parametrize(
    "held", [lambda rate: Rates(rate), lambda rate: {"rate": [Rates(rate)]}]
)
def test_what_may_change_unseen_is_left_alone(held):
    def factor(learner):
        inside = isinstance(learner.held, dict)
        return float(learner.held["rate"][0] if inside else learner.held)

    learner = Odd(factor)
    learner.held = held(1.0)
    update, eager = recorded(learner), EagerUpdate(learner)
    for rate in (1.0, 2.0, 3.0):
        learner.held = held(rate)
        for batch in BATCHES[:3]:
            assert_same(results(update, batch), results(eager, batch))
    assert not update.n_programs and "attribute 'held' (Rates)" in update.reasons[0]


def test_attributes_that_come_later_are_followed():
    learner = Odd(lambda learner: getattr(learner, "late", 1.0))
    update, eager = recorded(learner), EagerUpdate(learner)
    for late in (None, 2.0, 3.0):
        if late is not None:
            learner.late = late
        for batch in BATCHES[:3]:
            assert_same(results(update, batch), results(eager, batch))
    assert update.n_programs == 3


def layered():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6))


def replace_layer(learner):
    learner.backbone[1] = nn.Tanh()


def replace_parameter(learner):
    learner.backbone[2].weight = nn.Parameter(torch.ones(6, 6).double())


def append_layer(learner):
    learner.backbone.append(nn.Tanh())


def hook_parameter(learner):
    learner.backbone[0].weight.register_hook(lambda gradient: 0 * gradient)


def hook_gradient(learner):
    def hook(weight):
        weight.grad.zero_()

    learner.backbone[0].weight.register_post_accumulate_grad_hook(hook)


def hook_module(learner):
    learner.backbone[1].register_forward_hook(lambda module, x, y: 2 * y)


def own_forward(learner):
    learner.backbone[1].forward = lambda x: x.sin()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replace_layer, "replaced"),
        (replace_parameter, "replaced"),
        (append_layer, "replaced"),
        (hook_parameter, "hooks"),
        (hook_gradient, "hooks"),
        (hook_module, "hooks"),
        (own_forward, "forward"),
    ],
)
def test_layers_and_hooks_that_come_later_are_followed(change, reason):
    learner = learner_of(backbone=layered())
    update = check_follows(learner, BATCHES[:3])
    before = results(update, BATCHES[3])
    assert update.n_programs == 1
    change(learner)
    found = results(update, BATCHES[3])
    assert any(not torch.equal(*pair) for pair in zip(found, before, strict=True))
    for batch in BATCHES:
        assert_same(results(update, batch), results(EagerUpdate(learner), batch))
    assert update.n_programs == 1 and reason in update.reasons[0]


def test_a_hook_that_is_gone_again_lets_programs_go_on():
    learner, calls = learner_of(), []
    update = check_follows(learner, BATCHES[:3])
    handle = next(learner.parameters()).register_hook(calls.append)
    for batch in BATCHES:
        update(batch)
    handle.remove()
    update(BATCHES[0])
    assert len(calls) == len(BATCHES) and update.n_programs == 1


class Scaled(nn.Module):
    """Multiplies by a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(()).double())

    def forward(self, x):
        return x * self.scale


def test_buffers_written_in_place_or_replaced_are_followed():
    backbone = nn.Sequential(nn.Linear(3, 6), Scaled())
    learner = learner_of(backbone=backbone)
    update, eager = recorded(learner), EagerUpdate(learner)
    for scale in (1.0, 2.0, 3.0):
        learner.backbone[1].scale = torch.tensor(scale).double()
        for batch in BATCHES[:3]:
            assert_same(results(update, batch), results(eager, batch))
            learner.backbone[1].scale.mul_(1.5)
    assert update.n_programs == 3


def test_frozen_and_thawed_weights_are_followed():
    learner = learner_of()
    update, eager = recorded(learner), EagerUpdate(learner)
    first = next(learner.parameters())
    for frozen in (False, True, False):
        first.requires_grad_(not frozen)
        for batch in BATCHES[:3]:
            assert_same(results(update, batch), results(eager, batch))


def test_new_values_of_weights_and_buffers_are_read():
    learner = learner_of()
    update = check_follows(learner, BATCHES[:3])
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.mul_(0.5)
    batch = BATCHES[3]
    assert_same(results(update, batch), results(EagerUpdate(learner), batch))


class Odd(Learner):
    """A linear model with a peculiar loss."""

    def __init__(self, factor):
        super().__init__("regression")
        self.weight = nn.Parameter(torch.ones(3, 1).double())
        self.factor = factor

    def adapt(self, support):
        return support.x.mean(1)

    def predict(self, state, x):
        return x @ self.weight * self.factor(self)


def counter():
    numbers = iter(range(1, 99))
    return lambda learner: next(numbers)


counted = counter()


@pytest.mark.parametrize(
    ("factor", "reason"),
    [
        (lambda learner: 1 + learner.progress.n_done, "no `stage`"),
        (lambda learner: 2 - learner.progress.fraction, "no `stage`"),
        (lambda learner: torch.rand(()), "random"),
        (lambda learner: learner.weight.detach().sum().item(), "reads a number"),
        (lambda learner: learner.weight.detach().sum().tolist(), "`tolist` reads"),
        (lambda learner: float(learner.weight.detach().numpy()[0, 0]), "`numpy`"),
        (lambda learner: np.asarray(learner.weight.detach()).item(0), "`__array__`"),
        (counter(), "operations are not the same"),
        (lambda learner: torch.tensor(counted(learner)), "tensors"),
    ],
)
def test_learners_that_do_other_things_every_time_are_left_alone(factor, reason):
    update = recorded(Odd(factor))
    update.learner.progress = Progress(1, 9)
    for batch in BATCHES:
        update(batch)
    assert not update.n_programs
    assert len(update.reasons) == 1 and reason in update.reasons[0]


class Staged(Odd):
    """Says when its loss is another one."""

    @property
    def stage(self):
        return self.progress.n_done // 4


def test_a_stage_says_when_to_record_anew():
    learner = Staged(lambda learner: 1.0 + learner.progress.n_done // 4)
    update = recorded(learner)
    for n_done in range(12):
        learner.progress = Progress(n_done, 12)
        found = results(update, BATCHES[0])
        assert_same(found, results(EagerUpdate(learner), BATCHES[0]))
    assert update.n_programs == 3 and not update.reasons


class Halving(MAML):
    """Does other things than MAML does, and leaves `stage` to it."""

    def predict(self, state, x):
        outputs = super().predict(state, x)
        return outputs if self.progress.n_done < 3 else outputs / 2


class Saying(Halving):
    """Says so."""

    @property
    def stage(self):
        return super().stage, self.progress.n_done < 3


@pytest.mark.parametrize(("kind", "n_programs"), [(Halving, 0), (Saying, 2)])
def test_a_stage_is_of_the_class_that_it_speaks_of(kind, n_programs):
    learner = learner_of(kind)
    update = recorded(learner)
    for n_done in range(6):
        learner.progress = Progress(n_done, 6)
        found = results(update, BATCHES[0])
        assert_same(found, results(EagerUpdate(learner), BATCHES[0]))
    assert update.n_programs == n_programs


def test_progress_that_only_a_recording_sets_is_taken_back():
    update = check_follows(Odd(lambda learner: 1.0), BATCHES[:3])
    assert update.n_programs == 1 and "progress" not in vars(update.learner)


class Offsets(Learner):
    """Parameters whose gradients are one and the same number."""

    def __init__(self):
        super().__init__("regression")
        self.first = nn.Parameter(torch.zeros(1).double())
        self.second = nn.Parameter(torch.zeros(1).double())
        self.third = nn.Parameter(torch.zeros(1, 1).double())

    def adapt(self, support):
        return support.y.mean(1, keepdim=True)

    def predict(self, state, x):
        first = x.sum(2, keepdim=True)
        return first + state + self.first + self.second + self.third


def test_gradients_of_programs_share_no_memory():
    learner = Offsets()
    update = check_follows(learner, BATCHES[:3])
    assert update.n_programs == 1
    results(update, BATCHES[3])
    parameters = [*learner.parameters()]
    before = [p.grad.clone() for p in parameters]
    assert len({p.grad.data_ptr() for p in parameters}) == 3
    parameters[0].grad.mul_(0)
    for parameter, gradient in zip(parameters[1:], before[1:], strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_programs_give_no_inputs_and_constants_away():
    class Linear(Odd):
        def predict(self, state, x):
            return x @ self.weight

        def loss(self, outputs, rows):
            return (self.slope * self.weight).sum().expand(len(rows))

    learner = Linear(None)
    learner.register_buffer("slope", torch.ones(3, 1).double())
    update = check_follows(learner, BATCHES[:3])
    assert update.n_programs == 1
    results(update, BATCHES[3])
    learner.weight.grad.zero_()
    assert learner.slope.all()


def test_a_program_that_is_wrong_is_not_used():
    def wrong(recording, filled):
        right = replayed(recording)
        yield lambda inputs: [
            None if one is None else 1.01 * one for one in right(inputs)
        ]

    learner = learner_of()
    update = recorded(learner, programs=wrong)
    for batch in BATCHES:
        assert_same(results(update, batch), results(EagerUpdate(learner), batch))
    assert not update.n_programs and "same loss" in update.reasons[0]


def test_padding_that_comes_later_is_not_taken_for_rows():
    ragged = episodes(7, ragged=True)
    check_follows(learner_of(), [*BATCHES[:3], ragged, ragged, ragged, BATCHES[3]])


def test_few_programs_are_made_of_many_shapes(monkeypatch):
    monkeypatch.setattr(recording, "MOST_PROGRAMS", 3)
    monkeypatch.setattr(recording, "MOST_SHAPES", 5)
    learner = learner_of()
    update = recorded(learner)
    for n_support in range(2, 10):
        for seed in range(3):
            update(episodes(seed, n_support=n_support))
    assert update.n_programs == 3
    batch = episodes(n_support=9)
    assert_same(results(update, batch), results(EagerUpdate(learner), batch))


def test_patience_and_size():
    update = recorded(learner_of(), patience=3)
    for batch in BATCHES:
        assert not update.n_programs
        update(batch)
    assert update.n_programs == 1
    update = recorded(learner_of(), most_values=10)
    for batch in BATCHES:
        update(batch)
    assert not update.n_programs and not update.reasons


def test_parts_are_replayed_one_by_one():
    learner = learner_of()

    def halves(_, batch):
        return batch.parts(2, equal_rows=False)

    update = RecordedUpdate(learner, halves, replays, patience=0)
    for batch in BATCHES:
        assert_same(results(update, batch), results(EagerUpdate(learner), batch))
    assert update.n_programs == 1


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_programs_are_not_copied(copied):
    update = recorded(learner_of())
    for batch in BATCHES[:3]:
        update(batch)
    assert copied(update) is None


class Noisy(nn.Module):
    """Not on any list."""

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        (MLP(3, (6,)), True),
        (normalised(), True),
        (nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.1)), False),
        (nn.Sequential(nn.Linear(3, 6), Noisy()), False),
        (nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6)), False),
    ],
)
def test_layers_that_are_known_are_recorded_unasked(backbone, expected):
    assert can_be_recorded(learner_of(backbone=backbone)) is expected


def test_hooks_and_odd_attributes_are_not_recorded_unasked():
    hooked = learner_of(backbone=MLP(3, (6,)))
    hooked.backbone.register_forward_hook(lambda *_: None)
    assert not can_be_recorded(hooked)
    odd = learner_of(backbone=MLP(3, (6,)))
    odd.schedule = counter()
    assert can_be_recorded(odd)  # a function is what it is
    odd.schedule = iter([1, 2])
    assert not can_be_recorded(odd)


def test_a_hook_that_comes_later_is_called():
    learner, calls = learner_of(), []
    update = check_follows(learner, BATCHES[:3])
    learner.head.register_forward_hook(lambda *_: calls.append(1))
    learner.backbone.register_forward_pre_hook(lambda *_: calls.append(1))
    update(BATCHES[0])
    assert calls


def test_buckets_pad_what_comes_in_many_shapes():
    buckets, learner = Buckets(), learner_of()
    shapes = set()
    for n_support in (6, 6, 5, 6, 9, 11, 7, 3, 10):
        batch = episodes(n_support=n_support)
        padded = buckets(batch)
        shapes.add(padded.support.x.shape[1])
        expected = results(EagerUpdate(learner), batch)
        assert_same(results(EagerUpdate(learner), padded), expected)
    assert shapes == {6, 5, 16, 8, 4}


def test_buckets_pad_with_rows_that_backbones_can_take():
    buckets = Buckets()
    for n_support in (6, 5, 7, 3):
        padded = buckets(episodes(n_support=n_support))
    for rows_ in (padded.support, padded.query):
        assert (rows_.mask.sum(1) < rows_.mask.shape[1]).all()
        assert (rows_.x.norm(dim=2) > 0).all()


def test_buckets_leave_one_shape_alone():
    buckets = Buckets()
    for batch in BATCHES:
        assert buckets(batch) is batch
