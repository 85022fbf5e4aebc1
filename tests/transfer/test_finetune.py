"""Fine-tuning against loops of torch's own layers and optimizers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklmeta import ClassPool, FineTuneClassifier, FineTuneRegressor, TaskSet
from sklmeta.backbones import MLP
from sklmeta.datasets import Sinusoids, load_digits_pool, make_sinusoids
from sklmeta.engine.batches import Rows
from sklmeta.exceptions import MetaTrainingError
from sklmeta.transfer import FineTune
from sklmeta.transfer._heads import CosineLayer, LinearLayer
from sklmeta.transfer._tuning import halves

N_STEPS = 12


def small_backbone(input_shape):
    return nn.Sequential(nn.Linear(input_shape[0], 7), nn.Tanh(), nn.Linear(7, 4))


def support_of(sizes, n_ways=3, n_features=3, seed=0):
    """Return padded support rows of tasks with different numbers of rows."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(sizes), max(sizes)
    x = torch.randn(*shape, n_features, generator=generator)
    y = torch.arange(shape[1]).expand(shape) % n_ways
    mask = torch.arange(shape[1]) < torch.tensor(sizes)[:, None]
    return Rows(x, y * mask, mask, torch.full((len(sizes),), n_ways))


def make_learner(**options):
    torch.manual_seed(0)
    backbone = small_backbone((3,))
    options = {"inner_lr": 0.05, "inner_steps": N_STEPS, **options}
    return FineTune(backbone, 4, None, **options)


@pytest.mark.parametrize("layer", [LinearLayer(), CosineLayer(0.3)])
def test_gradients_of_heads_are_autograds(layer):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(2, 3, layer.width(4), generator=generator).double()
    error = torch.randn(2, 5, 3, generator=generator).double()
    prepared = layer.prepared(features)
    weight.requires_grad_()
    (layer.outputs(weight, prepared) * error).sum().backward()
    found = layer.gradient(weight.detach(), prepared, error)
    torch.testing.assert_close(found, weight.grad)


class TorchHead(nn.Module):
    """A head as torch would write it, from where fine-tuning starts it."""

    def __init__(self, kind, features, y, n_ways):
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(features.shape[1], n_ways, bias=kind == "linear")
        with torch.no_grad():
            if kind == "linear":
                for parameter in self.linear.parameters():
                    parameter.zero_()
            else:
                unit = F.normalize(features, dim=1)
                means = [unit[y == way].mean(0) for way in range(n_ways)]
                self.linear.weight.copy_(torch.stack(means))

    def forward(self, features):
        if self.kind == "linear":
            return self.linear(features)
        weight = F.normalize(self.linear.weight, dim=1)
        return F.linear(F.normalize(features, dim=1), weight) / 0.1


def tuned_by_torch(learner, x, y, kind, decay=0.0, steps=N_STEPS):
    """Fine-tune one task in a loop."""
    backbone = copy.deepcopy(learner.backbone)
    head = TorchHead(kind, backbone(x).detach(), y, 3)
    trained = list(head.parameters())
    if learner.layers == "all":
        trained += list(backbone.parameters())
    start = [parameter.detach().clone() for parameter in trained]
    if learner.inner_optimizer == "adam":
        optimizer = torch.optim.Adam(trained, learner.inner_lr, eps=1e-5)
    else:
        optimizer = torch.optim.SGD(trained, learner.inner_lr, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(head(backbone(x)), y).backward()
        for parameter, first in zip(trained, start, strict=True):
            if parameter.grad is not None and parameter.dim() > 1:
                parameter.grad += decay * (parameter.detach() - first)
        optimizer.step()
    return lambda query: head(backbone(query)).detach()


@pytest.mark.parametrize("layers", ["head", "all"])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_adapting_is_torchs_training(layers, kind, optimizer, decay):
    learner = make_learner(
        layers=layers, head=kind, inner_optimizer=optimizer, weight_decay=decay
    )
    support = support_of([9, 6, 7])
    query = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(1))
    found = learner.predict(learner.adapt(support), query)
    for task, n_rows in enumerate([9, 6, 7]):
        x, y = support.x[task, :n_rows], support.y[task, :n_rows]
        expected = tuned_by_torch(learner, x, y, kind, decay)(query[task])
        torch.testing.assert_close(found[task], expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("layers", ["head", "all"])
def test_the_number_of_steps_is_that_of_least_held_out_loss(layers):
    learner = make_learner(
        layers=layers, inner_early_stopping=True, inner_lr=0.3, inner_steps=15
    )
    support = support_of([12, 9], seed=4)
    query = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    found = learner.predict(learner.adapt(support), query)
    chosen = []
    for task, n_rows in enumerate([12, 9]):
        x, y = support.x[task, :n_rows], support.y[task, :n_rows]
        place = torch.tensor([int((y[:i] == y[i]).sum()) for i in range(n_rows)])
        losses = np.zeros(16)
        for fold in (0, 1):
            held = place % 2 == fold
            for steps in range(16):
                model = tuned_by_torch(
                    learner, x[~held], y[~held], "linear", steps=steps
                )
                losses[steps] += float(F.cross_entropy(model(x[held]), y[held]))
        chosen.append(int(losses.argmin()))
        expected = tuned_by_torch(learner, x, y, "linear", steps=chosen[-1])
        torch.testing.assert_close(
            found[task], expected(query[task]), rtol=1e-2, atol=1e-2
        )
    assert min(chosen) < 15


def test_rows_that_are_alone_in_their_class_are_not_held_out():
    support = support_of([3])
    assert not any(held.any() for held in halves(support))
    learner = make_learner(inner_early_stopping=True)
    every = make_learner()
    x = support.x
    torch.testing.assert_close(
        learner.predict(learner.adapt(support), x),
        every.predict(every.adapt(support), x),
    )


def test_numbers_are_fine_tuned_from_the_head_of_pretraining():
    tasks = make_sinusoids(30, random_state=0)
    meta = FineTuneRegressor(
        small_backbone, max_iter=50, inner_steps=0, random_state=0
    ).fit(tasks)
    learner, task = meta.learner_, tasks[0]
    head = learner.pretraining_head.detach()
    x = torch.from_numpy(meta._preparation.features(task.X))
    expected = learner.backbone(x).detach() @ head[:, :-1].mT + head[:, -1]
    y = meta._preparation.decode_targets(expected.numpy())
    found = meta.adapt(task.X[:5], task.y[:5]).predict(task.X)
    np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)
    tuned = meta.set_params(inner_steps=200).adapt(task.X, task.y).predict(task.X)
    assert ((tuned - task.y) ** 2).mean() < ((found - task.y) ** 2).mean()


def test_pretraining_is_torchs_training():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), np.arange(60) % 6
    options = {"batch_size": 20, "max_iter": 30, "random_state": 0}
    pool = ClassPool(X, y)
    meta = FineTuneClassifier(small_backbone, normalize_x=False, **options).fit(pool)
    start = FineTuneClassifier(
        small_backbone, normalize_x=False, **{**options, "max_iter": 0}
    ).fit(pool)
    backbone, head = start.learner_.backbone, start.learner_.pretraining_head
    optimizer = torch.optim.Adam([*backbone.parameters(), head], 1e-3)
    seeds = np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=4)
    generator = torch.Generator().manual_seed(int(seeds[1]))
    rows, codes = (
        torch.from_numpy(pool.X).float(),
        torch.arange(6).repeat_interleave(10),
    )
    for update in range(30):
        if update % 3 == 0:
            order = torch.randperm(60, generator=generator)
        index = order[20 * (update % 3) :][:20]
        optimizer.zero_grad()
        features = backbone(rows[index])
        logits = features @ head[:, :-1].mT + head[:, -1]
        F.cross_entropy(logits, codes[index]).backward()
        optimizer.step()
    found = meta.learner_.state_dict()
    for name, value in start.learner_.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_classes_of_local_tasks_are_told_apart_task_by_task():
    rng = np.random.default_rng(0)
    tasks = TaskSet(
        [(rng.normal(size=(8, 3)), ["a", "b"] * 4) for _ in range(5)], labels="local"
    )
    meta = FineTuneClassifier(small_backbone, max_iter=2, random_state=0).fit(tasks)
    assert len(meta.learner_.pretraining_head) == 10
    assert meta.adapt(rng.normal(size=(3, 3)), list("xyz")).classes_.tolist() == [
        *"xyz"
    ]


def test_without_updates_the_backbone_is_the_one_given():
    torch.manual_seed(0)
    module = small_backbone((64,))
    pool = load_digits_pool()
    flat = ClassPool(np.asarray(pool.X).reshape(len(pool.X), -1), pool.y)
    meta = FineTuneClassifier(module, max_iter=0, random_state=0).fit(flat[:5])
    for name, value in module.state_dict().items():
        torch.testing.assert_close(meta.learner_.backbone.state_dict()[name], value)
    assert meta.n_iter_ == 0
    assert meta.score(flat[5:]) > 0.2


def test_one_class_is_refused():
    rng = np.random.default_rng(0)
    pool = ClassPool(rng.normal(size=(20, 3)), np.zeros(20, dtype=int))
    with pytest.raises(ValueError, match="at least 2 classes"):
        FineTuneClassifier(max_iter=1).fit(pool)


def test_other_classes_get_a_new_head_and_the_backbone_goes_on():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 3)), np.arange(80) % 8
    pool = ClassPool(X, y)
    meta = FineTuneClassifier(
        small_backbone, max_iter=5, warm_start=True, normalize_x=False, random_state=0
    ).fit(pool[:3])
    before = copy.deepcopy(meta.learner_.backbone)
    meta.fit(pool[3:])
    assert len(meta.learner_.pretraining_head) == 5
    assert meta.n_iter_ == 10
    moved = max(
        float((a - b).detach().abs().max())
        for a, b in zip(
            before.parameters(), meta.learner_.backbone.parameters(), strict=True
        )
    )
    assert 0 < moved < 0.1
    head = meta.learner_.pretraining_head.detach().clone()
    meta.fit(pool[3:])  # the same classes: the head goes on
    assert float((meta.learner_.pretraining_head - head).detach().abs().max()) < 0.1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layers": "last"}, "layers must be one of"),
        ({"head": "mlp"}, "head must be one of"),
        ({"inner_optimizer": "lbfgs"}, "inner_optimizer must be one of"),
        ({"inner_lr": 0.0}, "inner_lr"),
        ({"inner_steps": -1}, "inner_steps"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"temperature": 0.0}, "temperature"),
        ({"max_iter": -1}, "max_iter"),
    ],
)
def test_wrong_parameters_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        FineTuneClassifier(**options).fit(load_digits_pool()[:5])


def test_steps_that_diverge_are_an_error_that_names_the_step_size():
    pool = load_digits_pool()
    meta = FineTuneClassifier(
        max_iter=1, inner_optimizer="sgd", weight_decay=1e4, random_state=0
    ).fit(pool[:5])
    with pytest.raises(MetaTrainingError, match="Lower inner_lr"):
        meta.adapt(pool[5:].X[::20], pool[5:].y[::20])


def test_a_distribution_of_numbers_is_sampled_for_every_pass():
    meta = FineTuneRegressor(
        lambda shape: MLP(shape[0], (8,)), max_iter=30, random_state=0
    ).fit(Sinusoids(n_samples=10))
    assert meta.n_iter_ == 30
