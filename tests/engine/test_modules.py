"""Any torch module meta-trains, with right second derivatives, or says why not."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import sklmeta
from sklmeta import (
    ABMLRegressor,
    MAMLClassifier,
    MAMLRegressor,
    ProbabilisticMAMLRegressor,
    ProtoNetClassifier,
    TaskSet,
)
from sklmeta.backbones import MLP, ConvNet
from sklmeta.backbones.build import build_backbone, feature_size
from sklmeta.datasets import make_sinusoids
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.modules import no_trace, try_out
from sklmeta.exceptions import MetaTrainingError
from sklmeta.gradient import MAML

# Backbones of every kind that users bring, as small as they go; rows of three.

N_FEATURES = 3


def linear(n_outputs=4):
    return nn.Linear(N_FEATURES, n_outputs)


class Embedded(nn.Module):
    """Casts its first column to the integers that an embedding takes."""

    def __init__(self, **options):
        super().__init__()
        self.embedding = nn.Embedding(5, 4, **options)
        self.linear = nn.Linear(N_FEATURES - 1, 4)

    def forward(self, x):
        return torch.tanh(self.embedding(x[:, 0].long()) * self.linear(x[:, 1:]))


class FirstAsItIs(nn.Module):
    """Makes three features of any number, of which the first stays what it was."""

    def __init__(self, n_features):
        super().__init__()
        self.linear = nn.Linear(n_features, N_FEATURES - 1)

    def forward(self, x):
        return torch.cat([x[:, :1], torch.tanh(self.linear(x))], 1)


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(5, 4)

    def forward(self, x):
        return self.bag(x[:, :1].long())


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer = kind(1, 4, batch_first=True)

    def forward(self, x):
        return self.layer(x.unsqueeze(-1))[0][:, -1]


class Attending(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.embed, self.layer = nn.Linear(1, 4), layer

    def forward(self, x):
        h = self.embed(x.unsqueeze(-1))
        if isinstance(self.layer, nn.MultiheadAttention):
            return self.layer(h, h, h)[0].mean(1)
        return self.layer(h).mean(1)


class Functional(nn.Module):
    """Calls torch's attention itself."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 12)

    def forward(self, x):
        q, k, v = self.embed(x.unsqueeze(-1)).unsqueeze(1).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).mean((1, 2))


class FunctionalBatchNorm(nn.Module):
    """Batch normalisation that is no layer: no statistics of the support are kept."""

    def __init__(self):
        super().__init__()
        self.linear = linear()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 4))
        self.bias = nn.Parameter(torch.linspace(-1.0, 1.0, 4))

    def forward(self, x):
        h = self.linear(x)
        h = F.batch_norm(h, None, None, self.weight, self.bias, training=True)
        return torch.tanh(h)


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x):
        return torch.tanh(self.linear(x - x.mean(0)))


class Squared(nn.Module):
    def forward(self, x):
        return x[:, :N_FEATURES].square()


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x):
        return torch.tanh(self.linear(x)).detach()


class Keeping(nn.Module):
    """Keeps its last features, as those do that look at them later."""

    def __init__(self, graph=False, buffer=False):
        super().__init__()
        self.inner = nn.Sequential(linear(), nn.Tanh())
        self.graph = graph
        if buffer:
            self.register_buffer("last", None, persistent=False)

    def forward(self, x):
        h = self.inner(x)
        self.last = h if self.graph else h.detach()
        return h


class CountingCalls(nn.Module):
    """Counts its calls in no buffer, and computes with the number."""

    def __init__(self, always=False):
        super().__init__()
        self.linear, self.always, self.state = linear(), always, {"n": 0}

    def forward(self, x):
        if self.training or self.always:
            self.state["n"] += 1
        return self.linear(x) * (1 + 1 / (1 + self.state["n"]))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = linear(), linear()

    def forward(self, x):
        return torch.tanh(self.used(x))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x):
        h = self.linear(x)
        return torch.tanh(h) if x.sum() > 0 else torch.sigmoid(h)


class Drawing(nn.Module):
    """Adds noise in training, of torch's global generator and no layer of its own."""

    def __init__(self, always=False):
        super().__init__()
        self.linear, self.always = linear(), always

    def forward(self, x):
        h = self.linear(x)
        return h + torch.randn_like(h) / 10 if self.training or self.always else h


class Averaging(nn.Module):
    """Moves a buffer of its own in training."""

    def __init__(self, always=False):
        super().__init__()
        self.linear, self.always = linear(), always
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        h = self.linear(x)
        if self.training or self.always:
            self.mean.mul_(0.9).add_(h.detach().mean(0))
        return torch.tanh(h - self.mean.clone())


class WritingInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x):
        return self.linear(x.mul_(2.0))


class _Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.exp()


class Once(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x):
        return _Exp.apply(self.linear(x))


class Distances(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.linspace(-1.0, 1.0, 12).reshape(4, 3))

    def forward(self, x):
        return torch.cdist(x, self.centres, p=3.0)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.cfloat))

    def forward(self, x):
        return (x.to(self.weight.dtype) @ self.weight).abs()


class SinglePrecision(nn.Module):
    """Fails where rows are predicted in double precision."""

    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x):
        return self.linear(x.float())


def with_hook():
    module = nn.Sequential(linear(), nn.Tanh(), nn.Linear(4, 4))
    module[0].register_forward_hook(lambda layer, args, output: output * 2)
    return module


def frozen():
    module = nn.Sequential(linear(), nn.Tanh(), nn.Linear(4, 4))
    module[0].requires_grad_(False)
    return module


def channels(*layers):
    return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 1), *layers)


def transformer(dropout):
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=dropout, batch_first=True)
    layer.activation = F.gelu
    return Attending(layer)


WORKING = {
    "dropout": lambda: nn.Sequential(linear(), nn.Dropout(0.3), nn.Tanh()),
    "layer norm": lambda: nn.Sequential(linear(), nn.LayerNorm(4), nn.Tanh()),
    "rms norm": lambda: nn.Sequential(linear(), nn.RMSNorm(4), nn.Tanh()),
    "group norm": lambda: nn.Sequential(linear(), nn.GroupNorm(2, 4), nn.Tanh()),
    "batch norm": lambda: nn.Sequential(linear(), nn.BatchNorm1d(4), nn.Tanh()),
    "instance norm": lambda: channels(
        nn.InstanceNorm1d(4, affine=True), nn.Tanh(), nn.Flatten()
    ),
    "embedding": Embedded,
    "sparse embedding": lambda: Embedded(sparse=True),
    "RNN": lambda: Recurrent(nn.RNN),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "attention": lambda: Attending(nn.MultiheadAttention(4, 2, batch_first=True)),
    "transformer": lambda: transformer(0.0),
    "transformer with dropout": lambda: transformer(0.2),
    "functional attention": Functional,
    "frozen": frozen,
    "unused": Unused,
    "tied": Tied,
    "double": lambda: nn.Sequential(linear(), nn.Tanh()).double(),
    "half": lambda: nn.Sequential(linear(), nn.Tanh()).half(),
    "hook": with_hook,
    "weight norm": lambda: nn.Sequential(
        parametrizations.weight_norm(linear()), nn.Tanh()
    ),
    "spectral norm": lambda: nn.Sequential(
        parametrizations.spectral_norm(linear()), nn.Tanh()
    ),
    "orthogonal": lambda: nn.Sequential(
        parametrizations.orthogonal(linear(3)), nn.Tanh()
    ),
    "ReLU in place": lambda: nn.Sequential(linear(), nn.ReLU(inplace=True)),
    "randomised ReLU": lambda: nn.Sequential(linear(), nn.RReLU()),
    "branching": Branching,
    "keeping": Keeping,
    "drawing": Drawing,
    "averaging": Averaging,
    "convolution": lambda: channels(nn.Tanh(), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
    "transposed": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.ConvTranspose1d(1, 2, 2), nn.Tanh(), nn.Flatten()
    ),
}

TWICE = "cannot be differentiated twice"
REFUSED = {
    "once differentiable": (Once, rf"\(Once\).*{TWICE} \(once_diff.*first_order=True"),
    "distances": (Distances, rf"\(Distances\).*{TWICE} \(_cdist_backward\).*first_ord"),
    "embedding bag": (
        lambda: nn.Sequential(Bag(), nn.Linear(4, 4)),
        rf"layer '0.bag' \(EmbeddingBag\).*{TWICE} \(_embedding_bag_backward\)",
    ),
    "complex": (Complex, r"weight 'weight' is complex.*view_as_real"),
    "meta device": (lambda: nn.Linear(3, 4, device="meta"), "meta device.*callable"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4)), "lazy layers.*Pass one batch"),
    "torch.jit": (lambda: torch.jit.trace(linear(), torch.zeros(2, 3)), "Python modul"),
    "torch.compile": (lambda: torch.compile(linear()), "the module that it was made"),
    "old norm": (
        lambda: nn.utils.spectral_norm(linear()),
        r"parametrizations\.weight_norm or spectral_norm",
    ),
    "renormalised": (lambda: Embedded(max_norm=1.0), "'embedding'.*max_norm=None"),
    "writes into rows": (
        WritingInput,
        r"forward \(WritingInput\) writes in place.*x\.clone\(\)",
    ),
    "writes into rows, a layer": (
        lambda: nn.Sequential(nn.Flatten(), nn.Hardtanh(-9, -8, True), linear()),
        r"layer '1' \(Hardtanh\) writes in place.*inplace=True",
    ),
    "draws always": (lambda: Drawing(True), r"evaluation mode.*if self\.training"),
    "moves buffers always": (
        lambda: Averaging(True),
        r"buffers \['backbone.mean'\] in evaluation mode.*if self\.training",
    ),
    "detached": (Detached, r"output has no gradient\. Leave out detach\(\)"),
    "other rows": (Centred, r"depend on the other rows.*LayerNorm.*BatchNorm1d"),
    "functional batch norm": (FunctionalBatchNorm, "depend on the other rows"),
    "keeps a graph": (
        lambda: nn.Sequential(Keeping(True), nn.Linear(4, 4)),
        r"layer '0' \(Keeping\) keeps.*'last'.*value\.detach",
    ),
    "keeps a graph, a buffer": (
        lambda: Keeping(True, buffer=True),
        r"forward \(Keeping\) keeps.*'last'",
    ),
    "counts calls always": (
        lambda: CountingCalls(True),
        r"something else for the same rows.*if self\.training",
    ),
    "writes into rows, a dense chain": (
        lambda: nn.Sequential(nn.LeakyReLU(0.1, inplace=True), linear()),
        r"layer '0' \(LeakyReLU\) writes in place.*inplace=True",
    ),
    "writes into what is used again": (
        lambda: nn.Sequential(linear(), nn.Sigmoid(), nn.ReLU(inplace=True)),
        r"layer '2' \(ReLU\) writes in place.*inplace=True",
    ),
    "single precision": (SinglePrecision, r"layer 'linear' \(Linear\).*the precision"),
    "tuple": (lambda: nn.LSTM(3, 2), "must return a tensor"),
    "shape": (lambda: nn.Unflatten(1, (1, 3)), r"Flatten\(\) at its end"),
}

# Vectorised where torch can; the others task by task.
APART = {
    *("randomised ReLU", "branching", "averaging", "spectral norm", "keeping"),
}
RANDOM = ("dropout", "transformer with dropout", "drawing", "randomised ReLU")


def seeded(factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return factory()


def make_rows(n_rows, generator):
    x = torch.randn(3, n_rows, N_FEATURES, generator=generator)
    x[..., 0] = torch.randint(5, (3, n_rows), generator=generator)
    y = torch.sin(x.sum(-1, keepdim=True))
    return Rows(x.double(), y.double(), torch.ones(3, n_rows, dtype=torch.bool))


@pytest.fixture(scope="module")
def episodes():
    generator = torch.Generator().manual_seed(0)
    return Episodes(make_rows(5, generator), make_rows(6, generator))


def make_learner(factory, **options):
    backbone = build_backbone(seeded(factory), (N_FEATURES,), seed=0)
    return MAML(
        backbone,
        feature_size(backbone, (N_FEATURES,)),
        1,
        task_type="regression",
        generator=torch.Generator().manual_seed(1),
        **{"inner_lr": 0.1, "inner_steps": 2, **options},
    )


def loss_of(learner, episodes):
    """Return the loss, with the same random numbers every time."""
    with no_trace(learner):
        torch.manual_seed(0)
        return learner.meta_loss(episodes).sum()


def slope(learner, episodes, direction, step=1e-3):
    """Return the derivative along a direction by a fourth-order stencil."""
    total = 0.0
    for k, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
        moved = copy.deepcopy(learner)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                p.add_(direction[name], alpha=k * step)
            total += weight * loss_of(moved, episodes).item()
    return total / (12 * step)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("kind", WORKING)
def test_meta_gradient_is_second_order(kind, episodes):
    learner = make_learner(WORKING[kind])
    try_out(learner, episodes)
    if kind != "orthogonal":  # torch 2.6 has no batching rule for it
        assert learner.tasks_apart == (kind in APART)
    assert learner.draws_randomly == (kind in RANDOM)
    assert learner.plain_attention == any(w in kind for w in ("attention", "former"))
    learner.double().train()
    if kind in ("spectral norm", "averaging"):
        learner.eval()  # in training they move buffers, without a gradient
    parameters = dict(learner.named_parameters())
    trained = [p for p in parameters.values() if p.requires_grad]
    gradient = torch.autograd.grad(
        loss_of(learner, episodes), trained, materialize_grads=True
    )
    generator = torch.Generator().manual_seed(2)
    for _ in range(2):
        direction = {
            n: torch.randn(p.shape, generator=generator, dtype=p.dtype)
            * p.requires_grad
            for n, p in parameters.items()
        }
        own = [direction[n] for n, p in parameters.items() if p.requires_grad]
        found = sum((g * d).sum().item() for g, d in zip(gradient, own, strict=True))
        expected = slope(learner, episodes, direction, step=1e-5)
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("kind", ["weight norm", "sparse embedding"])
def test_learners_by_themselves_have_second_derivatives(kind, episodes):
    module = seeded(WORKING[kind])
    learner = MAML(
        *(module, 4, 1),
        task_type="regression",
        inner_lr=0.1,
        inner_steps=2,
        generator=torch.Generator().manual_seed(1),
    )
    learner.double().tasks_apart = True
    parameters = dict(learner.named_parameters())
    gradient = torch.autograd.grad(
        learner.meta_loss(episodes).sum(), list(parameters.values())
    )
    generator = torch.Generator().manual_seed(2)
    direction = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, p in parameters.items()
    }
    pairs = zip(gradient, direction.values(), strict=True)
    found = sum((g * d).sum().item() for g, d in pairs)
    expected = slope(learner, episodes, direction, step=1e-5)
    assert found == pytest.approx(expected, rel=1e-5)


def make_tasks(classes=False):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(8, 10, N_FEATURES)).astype(np.float32)
    X[..., 0] = rng.integers(5, size=X.shape[:2])
    y = (X[..., 1:].sum(-1) > 0).astype(int) if classes else X.sum(-1)
    return TaskSet(list(zip(X, y, strict=True)))


OPTIONS = {
    "normalize_x": False,
    "n_shot": 4,
    "batch_size": 2,
    "max_iter": 2,
    "random_state": 0,
}


def fitted_predictions(meta, tasks):
    """Fit, adapt and predict; twice over, with the same result."""
    meta.fit(tasks)
    task = tasks[0]
    found = meta.adapt(task.X[:6], task.y[:6]).predict(task.X[6:])
    np.testing.assert_array_equal(meta.predict(task.X[6:]), found)
    (together,) = meta.predict_tasks([(task.X[:6], task.y[:6])], [task.X[6:]])
    if meta._classifies:
        np.testing.assert_array_equal(together, found)
    else:
        np.testing.assert_allclose(together, found, rtol=1e-5, atol=1e-6)
    return found


@pytest.mark.parametrize("kind", WORKING)
def test_fits_adapts_and_predicts(kind):
    module = seeded(WORKING[kind])
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    tasks = make_tasks()
    meta = MAMLRegressor(module, inner_steps=2, **OPTIONS)
    found = fitted_predictions(meta, tasks)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(fitted_predictions(meta, tasks), found)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_name_the_layer_and_the_remedy(kind):
    factory, message = REFUSED[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.jit and the old norms
        module = seeded(factory)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        MAMLRegressor(module, **OPTIONS).fit(make_tasks())


@pytest.mark.parametrize("kind", ["once differentiable", "distances", "embedding bag"])
def test_first_order_takes_what_is_differentiable_once(kind):
    meta = MAMLRegressor(seeded(REFUSED[kind][0]), first_order=True, **OPTIONS)
    assert np.isfinite(fitted_predictions(meta, make_tasks())).all()


@pytest.mark.parametrize("kind", ["distances", "embedding bag"])
def test_second_order_later_is_refused_before_training(kind):
    meta = MAMLRegressor(seeded(REFUSED[kind][0]), second_order_from=2, **OPTIONS)
    with pytest.raises(ValueError, match=TWICE):
        meta.fit(make_tasks())


def test_first_order_may_not_write_into_rows_either():
    chain = seeded(REFUSED["writes into rows, a dense chain"][0])
    meta = MAMLRegressor(chain, first_order=True, inner_steps=3, **OPTIONS)
    with pytest.raises(ValueError, match=r"'0' \(LeakyReLU\) writes in place"):
        meta.fit(make_tasks())


def test_other_rows_matter_to_batch_normalisation_where_that_is_wanted():
    module = seeded(WORKING["batch norm"])
    meta = MAMLRegressor(module, transductive=True, **OPTIONS).fit(make_tasks())
    task = make_tasks()[0]
    model = meta.adapt(task.X, task.y)
    assert not np.allclose(model.predict(task.X)[:3], model.predict(task.X[:3]))


def test_divergence_is_not_taken_for_steps_that_differ():
    module = seeded(lambda: nn.Sequential(linear(), nn.ReLU(), Squared(), linear(4)))
    options = OPTIONS | {"inner_steps": 3, "checkpoint_steps": True, "inner_lr": 1e30}
    with pytest.raises(MetaTrainingError, match="Lower inner_lr"):
        MAMLRegressor(module, **options).fit(make_tasks())


def test_steps_that_differ_when_taken_again_are_refused():
    options = {"inner_steps": 2, "checkpoint_steps": True, **OPTIONS}
    with pytest.raises(ValueError, match=r"checkpoint_steps=True.*register_buffer"):
        MAMLRegressor(seeded(CountingCalls), **options).fit(make_tasks())
    for kind in ("averaging", "spectral norm", "dropout"):
        meta = MAMLRegressor(seeded(WORKING[kind]), **options)
        assert np.isfinite(fitted_predictions(meta, make_tasks())).all()


def test_labels_beyond_an_embedding_are_explained():
    meta = MAMLRegressor(seeded(Embedded), **{**OPTIONS, "normalize_x": True})
    with pytest.raises(ValueError, match=r"'embedding' \(Embedding\).*normalize_x=Fal"):
        meta.fit(make_tasks())


def test_frozen_weights_stay_and_unused_ones_do_no_harm():
    for kind, name in (("frozen", "0.weight"), ("unused", "unused.weight")):
        module = seeded(WORKING[kind])
        meta = MAMLRegressor(module, **{**OPTIONS, "max_iter": 5}).fit(make_tasks())
        own = dict(meta.learner_.backbone.named_parameters())
        assert torch.equal(own[name], module.get_parameter(name))
        assert any(not torch.equal(own[n], p) for n, p in module.named_parameters())


def test_tied_weights_stay_tied():
    meta = MAMLRegressor(seeded(WORKING["tied"]), **OPTIONS).fit(make_tasks())
    backbone = meta.learner_.backbone
    assert backbone.a.weight is backbone.b.weight
    task = make_tasks()[0]
    state = meta.adapt(task.X, task.y)._model.state
    assert "backbone.b.weight" not in state["parameters"]


def test_dropout_is_on_in_training_and_off_afterwards(episodes):
    learner = make_learner(WORKING["dropout"])
    try_out(learner, episodes)
    learner.double()

    def losses(mode):
        learner.train(mode)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return [learner.meta_loss(episodes).sum().item() for _ in range(2)]

    assert len(set(losses(True))) == 2
    assert len(set(losses(False))) == 1


@pytest.mark.parametrize("module", [MLP(3, (4,)), nn.Linear(3, 4)])
def test_known_layers_are_not_tried(module, episodes, monkeypatch):
    learner = make_learner(lambda: module)
    monkeypatch.setattr(learner, "meta_loss", None)  # would fail
    try_out(learner, episodes)
    assert not learner.tasks_apart


def test_trying_leaves_no_trace(episodes):
    learner = make_learner(WORKING["averaging"])
    state, generator = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    mode = learner.training
    try_out(learner, episodes)
    assert torch.equal(torch.get_rng_state(), generator)
    assert learner.training == mode
    for name, value in learner.state_dict().items():
        assert torch.equal(value, state[name])
    assert all(p.grad is None for p in learner.parameters())


def test_images_are_tried_in_single_precision():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 255, size=(4, 12, 6, 6), dtype=np.uint8)
    tasks = TaskSet([(x, np.arange(12) % 2) for x in X])
    module = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()
        )
    )
    options = {**OPTIONS, "normalize_x": True}
    found = fitted_predictions(MAMLClassifier(module, **options), tasks)
    assert set(found) <= {0, 1}
    assert isinstance(build_backbone(None, (1, 8, 8), seed=0), ConvNet)


GRADIENT_LEARNERS = [
    getattr(sklmeta, name)
    for name in sklmeta.__all__
    if name.endswith("Classifier")
    and getattr(sklmeta, name).__module__.startswith("sklmeta.gradient")
]


@pytest.mark.filterwarnings("ignore:.*joint training:UserWarning")
@pytest.mark.parametrize("learner", GRADIENT_LEARNERS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize(
    "kind", ["dropout", "batch norm", "embedding", "GRU", "transformer", "tied"]
)
def test_every_optimisation_based_learner_takes_it(kind, learner):
    def backbone(shape):
        return nn.Sequential(FirstAsItIs(shape[0]), WORKING[kind]())

    meta = learner(backbone, **OPTIONS)
    assert set(fitted_predictions(meta, make_tasks(classes=True))) <= {0, 1}


@pytest.mark.parametrize("kind", ["dropout", "embedding", "GRU", "transformer"])
def test_metric_learners_take_it(kind):
    meta = ProtoNetClassifier(seeded(WORKING[kind]), **OPTIONS)
    assert set(fitted_predictions(meta, make_tasks(classes=True))) <= {0, 1}


def test_modules_that_draw_are_reproducible():
    tasks = make_tasks()
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        meta = MAMLRegressor(seeded(Drawing), **OPTIONS)
        found.append(fitted_predictions(meta, tasks))
    np.testing.assert_array_equal(*found)


def test_partial_fit_keeps_what_was_found():
    tasks = make_tasks()
    meta = MAMLRegressor(seeded(Branching), **OPTIONS).fit(tasks)
    assert meta.learner_.tasks_apart
    meta.partial_fit(tasks)
    assert meta.learner_.tasks_apart


@pytest.mark.parametrize("estimator", [ABMLRegressor, ProbabilisticMAMLRegressor])
def test_noise_that_a_learner_makes_for_training_is_no_buffer_that_moves(estimator):
    class Squashed(nn.Linear):
        def forward(self, x):
            return super().forward(x).sinh().atan()

    tasks = make_sinusoids(12, random_state=0)
    meta = estimator(lambda shape: Squashed(shape[0], 8), max_iter=2, random_state=0)
    assert not meta.fit(tasks).learner_.tasks_apart
    assert np.isfinite(meta.adapt(tasks[0].X, tasks[0].y).predict(tasks[0].X)).all()
