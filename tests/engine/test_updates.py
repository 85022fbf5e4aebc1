"""The choice of a way to compute meta-updates, and meta-training by each of them."""

import threading
import warnings

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sklmeta import MAMLClassifier, MAMLRegressor
from sklmeta.backbones import MLP
from sklmeta.datasets import Sinusoids, load_digits_pool, make_sinusoids
from sklmeta.engine import compiled as compiling
from sklmeta.engine import training
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.programs import as_graph
from sklmeta.engine.recorded import RecordedUpdate
from sklmeta.engine.threads import ThreadedUpdate
from sklmeta.engine.updates import EagerUpdate, UpdateOptions, make_update
from sklmeta.exceptions import CompilationWarning, MetaTrainingError
from sklmeta.gradient import MAML

TASKS = make_sinusoids(40, random_state=0)


def small(input_shape):
    generator = torch.Generator().manual_seed(0)
    return MLP(input_shape[0], (8, 8), generator=generator)


def regressor(**options):
    options = {"max_iter": 45, "eval_every": 15, "inner_steps": 2, **options}
    return MAMLRegressor(small, random_state=0, batch_size=4, device="cpu", **options)


def weights(meta):
    return [parameter.detach().clone() for parameter in meta.learner_.parameters()]


def assert_close(found, expected):
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


@pytest.fixture
def updates(monkeypatch):
    """Return the list of the updates that are made from here on."""
    made = []

    def make(*args):
        made.append(make_update(*args))
        return made[-1]

    monkeypatch.setattr(training, "make_update", make)
    return made


@pytest.fixture
def stub_compiler(monkeypatch):
    """Let programs run as graphs, uncompiled; return those that were made."""
    made = []

    def compile_(recording):
        made.append(recording)
        return as_graph(recording)

    monkeypatch.setattr(compiling, "_compile", compile_)
    monkeypatch.setattr(compiling, "_kept", type(compiling._kept)())
    return made


@pytest.fixture
def eager(monkeypatch):
    """Return a function that fits as autograd makes every update."""

    def fit(meta, *args):
        with monkeypatch.context() as patch:
            patch.setattr(training, "make_update", lambda one, _: EagerUpdate(one))
            return meta.fit(*args)

    return fit


@pytest.mark.parametrize("tasks", [TASKS, Sinusoids(n_samples=20)])
def test_meta_training_by_programs_is_that_by_autograd(tasks, updates, eager):
    found = regressor().fit(tasks)
    assert updates[0].n_programs == 1
    expected = eager(regressor(), tasks)
    assert_close(weights(found), weights(expected))
    for name in ("train_loss", "epoch"):
        np.testing.assert_allclose(
            found.history_[:, name], expected.history_[:, name], rtol=1e-4
        )


def test_the_same_seed_gives_the_same_result_by_programs():
    first, second = (weights(regressor().fit(TASKS)) for _ in range(2))
    for own, other in zip(first, second, strict=True):
        assert torch.equal(own, other)


def learner(backbone, **options):
    return MAML(backbone, 6, 1, task_type="regression", **options)


@pytest.mark.parametrize(
    ("backbone", "options", "asked", "kind"),
    [
        (nn.Linear(3, 6), {}, False, RecordedUpdate),
        (nn.Linear(3, 6), {}, True, RecordedUpdate),
        (nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.2)), {}, False, EagerUpdate),
        (nn.RNN(3, 6), {}, True, EagerUpdate),
        (nn.Linear(3, 6), {"checkpoint_steps": True}, False, EagerUpdate),
    ],
)
def test_choice(backbone, options, asked, kind):
    update = make_update(learner(backbone, **options), UpdateOptions(compile=asked))
    assert type(update) is kind


def test_compiled_training_is_the_same_and_says_how_long_it_took(
    stub_compiler, eager, updates
):
    found = regressor(compile=True).fit(TASKS)
    assert updates[0].n_programs == len(stub_compiler) == 1
    assert_close(weights(found), weights(eager(regressor(), TASKS)))
    took = found.history_[:, "compile_dur"]
    assert took[0] > 0 and took[1:] == [0, 0]
    assert "compile_dur" not in eager(regressor(), TASKS).history_[0]
    regressor(compile=True, inner_lr=0.05).fit(TASKS)
    assert len(stub_compiler) == 1  # the same operations: kept
    regressor(compile=True, inner_lr=0.06).fit(TASKS)
    assert len(stub_compiler) == 2


def test_ragged_tasks_are_compiled_in_few_shapes(stub_compiler, updates, eager):
    rng = np.random.default_rng(0)
    sizes = rng.integers(8, 40, size=30)
    tasks = [(x := rng.normal(size=(n, 1)), np.sin(x[:, 0])) for n in sizes]
    options = {"n_shot": (3, 12), "n_query": None, "max_iter": 60}
    found = regressor(compile=True, **options).fit(tasks)
    assert 1 <= len(stub_compiler) <= 6
    assert updates[0].n_programs == len(stub_compiler)
    assert_close(weights(found), weights(eager(regressor(**options), tasks)))


def test_ragged_ways_are_compiled(stub_compiler, eager):
    pool = load_digits_pool()
    options = {"n_way": (2, 4), "n_shot": 2, "n_query": 3, "max_iter": 30}
    meta = [
        MAMLClassifier(
            lambda shape: nn.Sequential(nn.Flatten(), small((64,))),
            random_state=0,
            batch_size=4,
            inner_steps=2,
            compile=asked,
            **options,
        )
        for asked in (True, False)
    ]
    found = meta[0].fit(pool)
    assert 1 <= len(stub_compiler) <= 6
    assert_close(weights(found), weights(eager(meta[1], pool)))


def test_without_a_compiler_there_is_one_warning_and_the_same_result(
    monkeypatch, eager
):
    tried = []

    def fail(*args, **kwargs):
        tried.append(args)
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(compiling, "_compiled_with", fail)
    monkeypatch.setattr(compiling, "_no_compiler", [])
    monkeypatch.setattr(compiling, "_kept", type(compiling._kept)())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = regressor(compile=True, n_shot=(3, 6)).fit(TASKS)
    told = [str(one.message) for one in caught]
    assert [one.category for one in caught] == [CompilationWarning]
    assert "No working C++ compiler found" in told[0] and "g++" in told[0]
    assert len(tried) == 1  # though there are several shapes
    assert_close(weights(found), weights(eager(regressor(n_shot=(3, 6)), TASKS)))


def test_what_cannot_be_recorded_is_said_where_compiling_was_asked_for():
    def meta(**options):
        backbone = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.1))
        options = {"max_iter": 5, "inner_steps": 1, "random_state": 0, **options}
        return MAMLRegressor(backbone, **options)

    with pytest.warns(CompilationWarning, match="draws random numbers"):
        meta(compile=True).fit(TASKS)
    meta().fit(TASKS)


class Scaled(nn.Module):
    """Multiplies by a number that something else holds."""

    def __init__(self, held):
        super().__init__()
        self.layer = nn.Linear(3, 6)
        self.held = held

    def forward(self, x):
        return self.layer(x) * float(self.held[0])


def hooked():
    layer = nn.Linear(3, 6)
    layer.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        (Scaled(np.array([2.0])), r"'held' \(ndarray\)"),
        (hooked(), "has hooks"),
    ],
)
def test_what_could_change_unseen_is_not_compiled(stub_compiler, backbone, reason):
    generator = torch.Generator().manual_seed(0)
    rows = Rows(
        torch.randn(2, 4, 3, generator=generator),
        torch.randn(2, 4, 1, generator=generator),
        torch.ones(2, 4, dtype=torch.bool),
    )
    update = make_update(learner(backbone), UpdateOptions(compile=True))
    with pytest.warns(CompilationWarning, match=reason) as caught:
        for _ in range(3):
            update(Episodes(rows, rows))
    assert len(caught) == 1 and not stub_compiler


def test_padding_of_compiled_programs_is_made_of_rows(stub_compiler):
    """Backbones need not be able to take zeros."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(8, 40, size=20)
    tasks = [(x := rng.uniform(1, 2, size=(n, 2)), x.sum(1)) for n in sizes]

    class Logarithm(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 4)

        def forward(self, x):
            return self.layer(x.log())

    options = {"n_shot": (3, 12), "n_query": None, "max_iter": 12, "random_state": 0}
    meta = MAMLRegressor(Logarithm(), normalize_x=False, compile=True, **options)
    assert np.isfinite(meta.fit(tasks).history_[:, "train_loss"]).all()
    assert stub_compiler


def test_hooks_that_backward_alone_calls_are_called_in_threads_too():
    generator = torch.Generator().manual_seed(0)
    rows = Rows(
        torch.rand(4, 4, 1, 4, 4, generator=generator),
        torch.rand(4, 4, 1, generator=generator),
        torch.ones(4, 4, dtype=torch.bool),
    )
    backbone = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    own = MAML(backbone, 8, 1, task_type="regression").train()
    calls, batch = [], Episodes(rows, rows)
    torch.set_num_threads(2)
    try:
        update = make_update(own)
        assert isinstance(update, ThreadedUpdate)
        update(batch)
        update(batch)
        handle = own.head.weight.register_post_accumulate_grad_hook(calls.append)
        update(batch)
        assert len(calls) == len(batch)  # as often as autograd does, task by task
        handle.remove()
        update(batch)
        assert len(calls) == len(batch)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("value", ["yes", None, 2])
def test_compile_is_true_or_false(value):
    with pytest.raises(ValueError, match=r"compile must be one of \[True, False\]"):
        regressor(compile=value).fit(TASKS)


class Poison(Callback):
    """Makes a weight infinite."""

    def on_batch_end(self, net, training=False, **options):
        if net.n_updates_done == 40:
            with torch.no_grad():
                next(net.module_.parameters()).fill_(torch.inf)


def test_a_loss_of_a_program_that_is_not_finite_names_the_update(updates):
    with pytest.raises(MetaTrainingError, match=r"nan at meta-update 41. Lower inner"):
        regressor(callbacks=[Poison()]).fit(TASKS)
    assert updates[0].n_programs == 1


class Interrupt(Callback):
    """Presses Ctrl-C."""

    def on_batch_end(self, net, training=False, **options):
        if net.n_updates_done == 40:
            raise KeyboardInterrupt


def test_programs_can_be_interrupted_and_gone_on_from(updates):
    meta = regressor(callbacks=[Interrupt()], warm_start=True)
    with pytest.raises(KeyboardInterrupt):
        meta.fit(TASKS)
    assert meta.n_iter_ == 40 and updates[0].n_programs == 1
    meta.set_params(callbacks=None).fit(TASKS)
    assert meta.n_iter_ == 85 and updates[1].n_programs == 1
    before = weights(meta)
    meta.partial_fit(TASKS)
    assert any(
        not torch.equal(*pair) for pair in zip(before, weights(meta), strict=True)
    )


def test_threads_train_by_programs_of_their_own():
    expected, found = weights(regressor().fit(TASKS)), {}

    def run(name):
        found[name] = weights(regressor().fit(TASKS))

    threads = [threading.Thread(target=run, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own in found.values():
        assert_close(own, expected)
    assert len(found) == 3


@pytest.mark.slow
def test_compiling_for_real(eager):
    found = regressor(compile=True).fit(TASKS)
    assert_close(weights(found), weights(eager(regressor(), TASKS)))


@pytest.mark.gpu
def test_compiling_on_a_gpu(eager):
    found = regressor(compile=True).set_params(device="cuda").fit(TASKS)
    expected = eager(regressor().set_params(device="cuda"), TASKS)
    assert_close(weights(found), weights(expected))
