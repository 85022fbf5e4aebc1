"""The outer loop: learning, stopping, going on, and being interrupted."""

import builtins
import copy
import itertools

import pytest
import torch
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import Learner
from sklmeta.engine.training import OPTIMIZERS, TrainingOptions, meta_train
from sklmeta.exceptions import MetaTrainingError


class Constant(Learner):
    """Predicts two learned numbers for every row, whatever the support."""

    def __init__(self, start=0.0):
        super().__init__("regression")
        self.numbers = nn.Parameter(torch.full((2,), start))

    def adapt(self, support):
        return support.x.new_zeros(len(support))

    def predict(self, state, x):
        return self.numbers.expand(*x.shape[:2], 2)


def make_episodes(target=1.0, n_tasks=4):
    y = torch.full((n_tasks, 3, 2), target)
    rows = Rows(torch.zeros(n_tasks, 3, 1), y, torch.ones(n_tasks, 3, dtype=torch.bool))
    return Episodes(rows, rows)


def random_stream(seed=0):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield make_episodes(torch.randn((), generator=generator).item())


def train(learner, stream=None, validation=None, state=None, **options):
    stream = itertools.repeat(make_episodes()) if stream is None else stream
    options = {"outer_lr": 0.05, "n_updates": 50, "eval_every": 10, **options}
    return meta_train(learner, stream, validation, TrainingOptions(**options), state)


class At(Callback):
    """Does something after so many updates."""

    def __init__(self, update, action):
        self.update, self.action, self.seen = update, action, 0

    def on_batch_end(self, net, training, **kwargs):
        self.seen += training
        if training and self.seen == self.update:
            self.action(net)


def interrupt(net):
    raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, torch.optim.NAdam])
def test_training_reduces_the_loss(optimizer):
    learner = Constant()
    result = train(learner, optimizer=optimizer)
    losses = result.history[:, "train_loss"]
    assert len(losses) == 5 and losses[-1] < 0.8 * losses[0]
    assert not learner.training and result.interrupted is None


def test_every_update_counts_where_epochs_do_not_divide_them():
    taken = []
    stream = (taken.append(1) or make_episodes() for _ in itertools.count())
    result = train(Constant(), stream, n_updates=25, eval_every=10)
    assert result.n_updates == len(taken) == 25
    assert [len(row["batches"]) for row in result.history] == [10, 10, 5]


def test_no_updates_change_nothing():
    learner = Constant(3.0)
    result = train(learner, n_updates=0)
    assert result.n_updates == 0 and learner.numbers.tolist() == [3.0, 3.0]
    assert len(result.history) == 0


def test_batch_loss_is_the_mean_over_tasks_and_parts():
    halves = [make_episodes(1.0, 2), make_episodes(3.0, 2)]
    rows = [
        Rows(
            *(
                torch.cat([getattr(h, part).__dict__[k] for h in halves])
                for k in ("x", "y", "mask")
            )
        )
        for part in ("support", "query")
    ]
    result = train(Constant(), itertools.repeat(Episodes(*rows)), n_updates=1)
    assert result.history[-1, "train_loss"] == pytest.approx((1 + 9) / 2)


def test_validation_loss_is_the_mean_over_tasks():
    validation = [make_episodes(1.0, 3), make_episodes(3.0, 1)]
    result = train(Constant(), validation=validation, n_updates=1, outer_lr=1e-12)
    assert result.history[-1, "valid_loss"] == pytest.approx((3 * 1 + 9) / 4)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_twenty_updates_are_ten_and_ten(optimizer):
    whole, halves = Constant(), Constant()
    train(whole, random_stream(), n_updates=20, optimizer=optimizer)
    stream = random_stream()
    first = train(halves, stream, n_updates=10, optimizer=optimizer)
    second = train(
        halves, stream, state=first.optimizer_state, n_updates=10, optimizer=optimizer
    )
    assert second.n_updates == 10
    assert torch.equal(whole.numbers, halves.numbers)


def test_going_on_leaves_the_earlier_state_alone():
    learner = Constant()
    state = train(learner).optimizer_state
    before = copy.deepcopy(state)
    train(learner, random_stream(), state=state)
    for name, value in state["state"][0].items():
        assert torch.equal(value, before["state"][0][name])


def test_fresh_state_differs_from_resumed_state():
    one, other = Constant(), Constant()
    state = train(one).optimizer_state
    train(other)
    train(one, random_stream(), state=state)
    train(other, random_stream())
    assert not torch.equal(one.numbers, other.numbers)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_non_finite_loss_names_update_and_remedy(bad):
    stream = itertools.chain([make_episodes()] * 3, [make_episodes(bad)])
    learner = Constant()
    with pytest.raises(MetaTrainingError, match=r"update 4\. Lower inner_lr \(now 9\)"):
        train(learner, stream, remedy="Lower inner_lr (now 9).")
    assert torch.isfinite(learner.numbers).all()  # no step was taken


def test_non_finite_weights_after_the_last_update_are_refused():
    with pytest.raises(MetaTrainingError, match=r"'numbers' are not finite.* Lower"):
        train(Constant(), optimizer="sgd", outer_lr=1e39, n_updates=1)


def test_early_stopping_restores_the_best_weights():
    learner = Constant()
    validation = [make_episodes(0.5)]  # passed on the way to 1
    result = train(learner, validation=validation, n_updates=1000, patience=3)
    losses = result.history[:, "valid_loss"]
    best = min(losses)
    assert result.interrupted is None
    assert result.n_updates == 10 * len(losses) < 1000
    assert losses.index(best) == len(losses) - 4
    assert learner.meta_loss(validation[0])[0].item() == pytest.approx(best)


def test_the_best_epoch_may_be_the_last():
    learner = Constant()
    validation = [make_episodes(1.0)]
    result = train(learner, validation=validation, patience=3)
    best = min(result.history[:, "valid_loss"])
    assert learner.meta_loss(validation[0])[0].item() == pytest.approx(best)


def test_a_users_early_stopping_is_no_interrupt():
    stopping = EarlyStopping(monitor="train_loss", patience=2, sink=lambda text: None)
    learner = Constant(1.0)  # nothing left to learn
    result = train(learner, callbacks=[stopping], n_updates=1000)
    assert result.interrupted is None and result.n_updates < 1000


def test_interrupt_is_reported_and_keeps_what_was_learned():
    learner, uninterrupted = Constant(), Constant()
    result = train(learner, callbacks=[At(17, interrupt)])
    train(uninterrupted, n_updates=17)
    assert isinstance(result.interrupted, KeyboardInterrupt)
    assert result.n_updates == 17 and not learner.training
    assert torch.equal(learner.numbers, uninterrupted.numbers)


@pytest.mark.parametrize(("update", "n_rows"), [(3, 0), (17, 1), (20, 1)])
def test_interrupted_epoch_leaves_no_row(update, n_rows):
    result = train(
        Constant(), validation=[make_episodes()], callbacks=[At(update, interrupt)]
    )
    assert len(result.history) == n_rows
    assert all("train_loss" in row and "valid_loss" in row for row in result.history)


def test_interrupt_with_early_stopping_restores_the_best_weights():
    learner = Constant()
    validation = [make_episodes(0.0)]  # best before training, worse with every epoch
    at = At(25, interrupt)
    result = train(learner, validation=validation, patience=5, callbacks=[at])
    assert isinstance(result.interrupted, KeyboardInterrupt)
    best = result.history[0, "valid_loss"]
    assert learner.meta_loss(validation[0])[0].item() == pytest.approx(best)


def test_errors_of_callbacks_pass_through():
    def fail(net):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        train(Constant(), callbacks=[At(2, fail)])


def test_progress_is_printed_only_on_request(capsys):
    train(Constant())
    assert capsys.readouterr().out == ""
    train(Constant(), verbose=1)
    assert "train_loss" in capsys.readouterr().out


def test_nothing_is_printed_where_print_was_replaced(monkeypatch, capsys):
    original = print
    monkeypatch.setattr(builtins, "print", lambda *args: original(*args))
    train(Constant())
    assert not capsys.readouterr().out
    train(Constant(), verbose=1)
    assert "train_loss" in capsys.readouterr().out
