"""Meta-Baseline: its two stages, and what they are without each other."""

import numpy as np
import pytest
import torch

from sklmeta import ClassPool, MetaBaselineClassifier, ProtoNetClassifier, TaskSet
from sklmeta.backbones import MLP
from sklmeta.datasets import load_digits_pool
from sklmeta.exceptions import MetaTrainingError


def small_backbone(input_shape):
    return MLP(input_shape[0], (16,))


def flat_digits():
    pool = load_digits_pool()
    return ClassPool(np.asarray(pool.X).reshape(len(pool.X), -1).astype(float), pool.y)


def test_without_pretraining_it_is_a_prototypical_network_of_cosines():
    pool = flat_digits()
    options = {"max_iter": 10, "random_state": 0, "learn_temperature": True}
    meta = MetaBaselineClassifier(small_backbone, pretrain_iter=0, **options)
    twin = ProtoNetClassifier(small_backbone, metric="cosine", **options)
    meta.fit(pool[:5])
    twin.fit(pool[:5])
    for name, value in twin.learner_.state_dict().items():
        assert torch.equal(meta.learner_.state_dict()[name], value)
    assert len(meta.pretrain_history_) == 0


def test_both_stages_train_the_backbone():
    pool = flat_digits()[:6]
    states = []
    for pretrain_iter, max_iter in [(0, 1), (30, 1), (30, 20)]:
        meta = MetaBaselineClassifier(
            small_backbone,
            pretrain_iter=pretrain_iter,
            max_iter=max_iter,
            random_state=0,
        ).fit(pool)
        states.append(meta.learner_.backbone.state_dict())
    for name in states[0]:
        assert not torch.equal(states[0][name], states[1][name])
        assert not torch.equal(states[1][name], states[2][name])


def test_warm_start_does_not_pretrain_again():
    pool = flat_digits()[:6]
    meta = MetaBaselineClassifier(
        small_backbone,
        pretrain_iter=30,
        max_iter=5,
        warm_start=True,
        outer_lr=1e-12,
        random_state=0,
    ).fit(pool)
    before = {n: v.clone() for n, v in meta.learner_.state_dict().items()}
    meta.fit(pool)
    for name, value in meta.learner_.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert len(meta.pretrain_history_) == 1


@pytest.mark.parametrize("labels", ["local", "shared"])
def test_tasks_with_labels_of_either_kind(labels):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(10, 20, 4))
    tasks = TaskSet([(x, (x[:, 0] > 0).astype(int)) for x in X], labels=labels)
    meta = MetaBaselineClassifier(
        small_backbone, pretrain_iter=50, max_iter=50, random_state=0
    ).fit(tasks)
    assert meta.score(tasks) > 0.6


def test_pretraining_that_diverges_names_its_step_size():
    with pytest.raises(MetaTrainingError, match="pretrain_lr"):
        MetaBaselineClassifier(
            small_backbone, pretrain_lr=1e38, optimizer="sgd", random_state=0
        ).fit(flat_digits()[:5])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pretrain_iter": -1}, "pretrain_iter"),
        ({"pretrain_lr": 0.0}, "pretrain_lr"),
        ({"pretrain_batch_size": 0}, "pretrain_batch_size"),
        ({"temperature": -1.0}, "temperature"),
        ({"learn_temperature": "yes"}, "learn_temperature"),
    ],
)
def test_wrong_parameters_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        MetaBaselineClassifier(**options).fit(flat_digits()[:5])


def test_one_class_is_refused():
    with pytest.raises(ValueError, match=r"class"):
        MetaBaselineClassifier().fit(flat_digits()[:1])
