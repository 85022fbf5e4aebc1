"""skorch's callbacks in meta-training: those that work, and those that are refused."""

import re

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import (
    BatchScoring,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    Freezer,
    GradientNormClipping,
    Initializer,
    InputShapeSetter,
    LoadInitState,
    LRScheduler,
    PassthroughScoring,
    ProgressBar,
    TrainEndCheckpoint,
    Unfreezer,
)

from sklmeta import MAMLRegressor
from sklmeta.datasets import make_sinusoids
from sklmeta.model_selection import TaskKFold

WAVES = make_sinusoids(30, random_state=0)
TRAIN, HELD_OUT = WAVES[:20], WAVES[20:]


def fitted(*callbacks, **params):
    params = {"max_iter": 12, "eval_every": 3, "random_state": 0, **params}
    meta = MAMLRegressor(callbacks=list(callbacks), **params)
    return meta.fit(TRAIN, validation_tasks=HELD_OUT)


def weights(meta):
    return torch.cat([p.detach().flatten() for p in meta.learner_.parameters()])


@pytest.fixture(scope="module")
def plain():
    return fitted()


def test_learning_rate_schedule(plain):
    meta = fitted(LRScheduler("StepLR", step_size=1, gamma=0.1))
    rates = meta.history_[:, "event_lr"]
    np.testing.assert_allclose(rates, [1e-3, 1e-4, 1e-5, 1e-6])
    assert meta.history_[0, "train_loss"] == plain.history_[0, "train_loss"]
    assert not torch.equal(weights(meta), weights(plain))


def test_learning_rate_schedule_by_meta_updates_and_by_held_out_loss():
    by_update = LRScheduler("CosineAnnealingLR", T_max=12, step_every="batch")
    by_loss = LRScheduler("ReduceLROnPlateau", monitor="valid_loss", patience=0)
    assert fitted(by_update).n_iter_ == fitted(by_loss).n_iter_ == 12


def test_early_stopping_with_rules_of_its_own():
    meta = fitted(EarlyStopping(patience=1, threshold=100, load_best=True))
    assert meta.n_iter_ < 12
    assert meta.score(HELD_OUT) is not None


@pytest.mark.parametrize("load_best", [False, True])
def test_checkpoints_hold_the_best_weights(tmp_path, load_best):
    callback = Checkpoint(dirname=tmp_path, load_best=load_best)
    meta = fitted(callback, outer_lr=0.03, max_iter=30)
    saved = torch.load(tmp_path / "params.pt", weights_only=True)
    best = int(np.argmin(meta.history_[:, "valid_loss"]))
    is_last = best == len(meta.history_) - 1
    same = all(torch.equal(saved[n], w) for n, w in meta.learner_.state_dict().items())
    assert same == (load_best or is_last)
    assert meta.history_[best, "event_cp"]


def test_what_a_checkpoint_saved_can_be_gone_on_with(tmp_path):
    callback = Checkpoint(dirname=tmp_path, monitor=None)
    first = fitted(callback)
    again = fitted(LoadInitState(callback), max_iter=3)
    assert not torch.equal(weights(again), weights(first))
    torch.testing.assert_close(weights(again), weights(first), rtol=0, atol=0.05)


def test_last_weights_are_saved(tmp_path):
    meta = fitted(TrainEndCheckpoint(dirname=tmp_path))
    saved = torch.load(tmp_path / "train_end_params.pt", weights_only=True)
    for name, weight in meta.learner_.state_dict().items():
        torch.testing.assert_close(saved[name], weight)


def test_gradients_are_clipped(plain):
    meta = fitted(GradientNormClipping(1e-12), optimizer="sgd", outer_lr=1.0)
    start = fitted(optimizer="sgd", outer_lr=1e-12)
    torch.testing.assert_close(weights(meta), weights(start), rtol=0, atol=1e-6)


def test_weights_are_frozen_and_thawed():
    start = fitted(optimizer="sgd", outer_lr=1e-12, max_iter=1)
    frozen = fitted(Freezer("backbone.*"))
    for name, weight in frozen.learner_.named_parameters():
        before = start.learner_.get_parameter(name)
        assert torch.equal(weight, before) == name.startswith("backbone")
    thawed = fitted(Freezer("backbone.*"), Unfreezer("backbone.*", at=2))
    assert not torch.equal(weights(thawed), weights(frozen))


def test_weights_are_initialised():
    zeros = Initializer("head.*", torch.nn.init.zeros_)
    meta = fitted(zeros, optimizer="sgd", outer_lr=1e-12)
    assert meta.learner_.head.weight.abs().max() < 1e-6


def test_progress_bar_counts_meta_updates(capsys):
    fitted(ProgressBar())
    # Three meta-updates of an epoch, and one batch of ten held-out tasks (100 episodes
    # in batches of 16).
    assert "/10 [" in capsys.readouterr().err


def test_values_of_each_update_are_averaged():
    meta = fitted(PassthroughScoring("train_loss", on_train=True))
    assert len(meta.history_[:, "train_loss"]) == 4


def count_parameters(net, X, y=None):
    return sum(p.numel() for p in net.module_.parameters())


def test_a_score_of_ones_own():
    scoring = EpochScoring(count_parameters, use_caching=False, name="size")
    meta = fitted(scoring)
    assert meta.history_[:, "size"] == [weights(meta).numel()] * 4


@pytest.mark.parametrize(
    "callback",
    [
        EpochScoring("r2"),
        ("named", EpochScoring(count_parameters)),
        BatchScoring(count_parameters, name="size"),
        InputShapeSetter(),
        InputShapeSetter,
    ],
    ids=["cached score", "named", "batch score", "input shape", "class"],
)
def test_callbacks_that_read_rows_are_refused(callback):
    message = r"callbacks hold \w+, which reads rows .* fit's validation_tasks="
    with pytest.raises(ValueError, match=message):
        fitted(callback)


def test_searches_clone_callbacks():
    stopping = EarlyStopping(patience=1, threshold=100)
    meta = MAMLRegressor(max_iter=6, eval_every=2, callbacks=[stopping], random_state=0)
    before = re.sub("0x[0-9a-f]+", "", repr(vars(stopping)))
    search = GridSearchCV(
        meta, {"inner_lr": [0.01, 0.1]}, cv=TaskKFold(2), error_score="raise"
    )
    search.fit(TRAIN, validation_tasks=HELD_OUT)
    assert re.sub("0x[0-9a-f]+", "", repr(vars(stopping))) == before
    assert clone(meta).callbacks[0] is not stopping
