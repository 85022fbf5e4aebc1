"""What all sequence learners do with rows, labels and their order."""

import numpy as np
import pytest
import torch
from torch import nn

from sklmeta import (
    ClassPool,
    MANNClassifier,
    MANNRegressor,
    RecurrentNetClassifier,
    RecurrentNetRegressor,
    TaskSet,
)
from sklmeta.backbones import ConvNet
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import Progress
from sklmeta.memory import MANN, RecurrentNet
from sklmeta.memory._sequence import _order_of_rows, _place

N_FEATURES = 3
SMALL = {"hidden_size": 6, "memory_size": 8, "memory_width": 4, "n_reads": 2}
LEARNERS = ["mann", "lstm"]


def make_learner(kind, n_outputs=None, **options):
    generator = torch.Generator().manual_seed(0)
    options = {"n_ways": 3, "generator": generator, **options}
    backbone = options.pop("backbone", nn.Flatten())
    n_features = options.pop("n_features", N_FEATURES)
    if kind == "mann":
        learner = MANN(backbone, n_features, n_outputs, **SMALL, **options)
    else:
        learner = RecurrentNet(
            backbone, n_features, n_outputs, hidden_size=6, **options
        )
    return learner.double().eval()


def make_rows(n_tasks=2, n_rows=7, seed=0, n_way=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(
        n_tasks, n_rows, N_FEATURES, generator=generator, dtype=torch.float64
    )
    y = (torch.arange(n_rows) % n_way).repeat(n_tasks, 1)
    mask = torch.ones(n_tasks, n_rows, dtype=torch.bool)
    return Rows(x, y, mask, torch.full((n_tasks,), n_way))


def outputs(learner, support, query):
    with torch.no_grad():
        return learner.predict(learner.adapt(support), query.x)


def reordered(rows, order):
    return Rows(rows.x[:, order], rows.y[:, order], rows.mask[:, order], rows.n_way)


@pytest.mark.parametrize("kind", LEARNERS)
def test_padded_steps_change_nothing(kind):
    learner, query = make_learner(kind), make_rows(seed=1)
    full = make_rows()
    mask = full.mask.clone()
    mask[1, 4:] = False
    x = full.x.masked_fill(~mask.unsqueeze(2), 1e3)
    ragged = Rows(x, full.y.masked_fill(~mask, 0), mask, full.n_way)
    found = outputs(learner, ragged, query)
    short = Rows(full.x[1:, :4], full.y[1:, :4], full.mask[1:, :4], full.n_way[1:])
    torch.testing.assert_close(found[:1], outputs(learner, full[:1], query[:1]))
    torch.testing.assert_close(found[1:], outputs(learner, short, query[1:]))


@pytest.mark.parametrize("kind", LEARNERS)
def test_rows_are_predicted_from_the_rows_before_them(kind):
    learner, rows = make_learner(kind), make_rows()
    with torch.no_grad():
        found = learner.sequence_outputs(rows)
        for n_rows in range(1, 8):
            prefix = reordered(rows, range(n_rows))
            one = learner.sequence_outputs(prefix)
            torch.testing.assert_close(one, found[:, :n_rows])
        y = rows.y.clone()
        y[:, 3] = (y[:, 3] + 1) % 3
        other = learner.sequence_outputs(Rows(rows.x, y, rows.mask, rows.n_way))
    assert torch.equal(other[:, :4], found[:, :4])
    assert (other[:, 4:] != found[:, 4:]).any()


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_query_row_is_the_next_row_of_the_sequence(kind):
    learner, support, query = make_learner(kind), make_rows(), make_rows(seed=1)
    found = outputs(learner, support, query)
    ways = learner.adapt(support)["ways"]
    # In the order and with the labels that adapting chooses.
    order = _order_of_rows(_place(support.x), support)
    task = torch.arange(2)[:, None]
    own = Rows(
        support.x[task, order],
        ways.gather(1, support.y[task, order]),
        support.mask,
        support.n_way,
    )
    for row in range(3):
        x = torch.cat([own.x, query.x[:, row : row + 1]], 1)
        y, mask = (torch.cat([leaf, leaf[:, :1]], 1) for leaf in (own.y, own.mask))
        with torch.no_grad():
            last = learner.sequence_outputs(Rows(x, y, mask, own.n_way))[:, -1]
        torch.testing.assert_close(found[:, row], last.gather(1, ways))


@pytest.mark.parametrize("kind", LEARNERS)
def test_predicting_leaves_no_trace(kind):
    learner, support, query = make_learner(kind), make_rows(), make_rows(seed=1)
    with torch.no_grad():
        state = learner.adapt(support)
        before = [leaf.clone() for leaf in torch.utils._pytree.tree_leaves(state)]
        found = learner.predict(state, query.x)
        alone = [learner.predict(state, x) for x in query.x.split(1, dim=1)]
    leaves = torch.utils._pytree.tree_leaves(state)
    assert all(map(torch.equal, leaves, before))
    torch.testing.assert_close(torch.cat(alone, 1), found)


@pytest.mark.parametrize("kind", LEARNERS)
def test_neither_order_of_rows_nor_names_of_labels_matter(kind):
    learner, support, query = make_learner(kind), make_rows(), make_rows(seed=1)
    found = outputs(learner, support, query)
    backwards = reordered(support, list(range(6, -1, -1)))
    torch.testing.assert_close(outputs(learner, backwards, query), found)
    renamed = Rows(support.x, (support.y + 1) % 3, support.mask, support.n_way)
    moved = outputs(learner, renamed, query)
    torch.testing.assert_close(moved.roll(-1, dims=2), found)


@pytest.mark.parametrize("kind", LEARNERS)
def test_the_label_of_the_last_support_row_matters(kind):
    learner, query = make_learner(kind), make_rows(n_tasks=1, seed=1)
    support = make_rows(n_tasks=1, n_rows=2, n_way=2)
    with torch.no_grad():
        state = learner.adapt(support)
        found = learner.predict(state, query.x)
        state["label"] = state["label"].flip(1)
        assert (learner.predict(state, query.x) != found).any()


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_the_meta_loss_are_differences(kind, training):
    learner = make_learner(kind).train(training)
    episodes = Episodes(make_rows(n_rows=5), make_rows(n_rows=4, seed=1))
    parameters = list(learner.parameters())
    gradients = torch.autograd.grad(learner.meta_loss(episodes).sum(), parameters)
    generator = torch.Generator().manual_seed(3)
    directions = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters
    ]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))

    def loss_at(distance):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=distance)
            value = learner.meta_loss(episodes).sum()
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.sub_(direction, alpha=distance)
        return value

    step = 1e-4  # fourth-order stencil
    near, far = (loss_at(s) - loss_at(-s) for s in (step, 2 * step))
    torch.testing.assert_close(slope, (8 * near - far) / (12 * step), rtol=1e-7, atol=0)


@pytest.mark.parametrize("kind", LEARNERS)
def test_training_draws_its_own_orders_and_labels(kind):
    learner = make_learner(kind).train()
    episodes = Episodes(make_rows(), make_rows(seed=1))
    before = torch.get_rng_state()
    losses = []
    for n_done in (0, 1, 0):
        learner.progress = Progress(n_done)
        losses.append(learner.meta_loss(episodes))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(losses[0], losses[2])
    assert not torch.equal(losses[0], losses[1])


@pytest.mark.parametrize("kind", LEARNERS)
def test_training_loss_is_over_support_and_query_rows(kind):
    learner = make_learner(kind, n_outputs=3).train()
    support, query = make_rows(n_rows=1), make_rows(n_rows=4, seed=1)
    support, query = (Rows(r.x, r.y, r.mask) for r in (support, query))
    loss = learner.meta_loss(Episodes(support, query))
    with torch.no_grad():  # one row has one order
        first = learner.sequence_outputs(support)
        later = learner.predict(learner.adapt(support), query.x)
    logits, y = torch.cat([first, later], 1), torch.cat([support.y, query.y], 1)
    each = nn.functional.cross_entropy(logits.mT, y, reduction="none")
    torch.testing.assert_close(loss, each.mean(1))


@pytest.mark.parametrize("kind", LEARNERS)
def test_gradients_pass_ragged_supports(kind):
    learner = make_learner(kind).train()
    support, query = make_rows(), make_rows(seed=1)
    mask = support.mask.clone()
    mask[1, 4:] = False
    y = support.y.masked_fill(~mask, 0)
    losses = []
    for filling in (0.0, 1e3):
        x = support.x.masked_fill(~mask.unsqueeze(2), filling)
        episodes = Episodes(Rows(x, y, mask, support.n_way), query)
        learner.zero_grad()
        losses.append(learner.meta_loss(episodes))
        losses[-1].sum().backward()
        losses.extend(p.grad.clone() for p in learner.parameters())
    half = len(losses) // 2
    torch.testing.assert_close(losses[:half], losses[half:])


@pytest.mark.parametrize("kind", LEARNERS)
def test_more_ways_than_built_for_are_refused(kind):
    learner = make_learner(kind)
    with pytest.raises(ValueError, match=r"4 classes.*at most 3.*n_way=4"):
        learner.adapt(make_rows(n_way=4))
    with pytest.raises(ValueError, match=r"4 classes.*at most 3"):
        learner.sequence_outputs(make_rows(n_way=4))
    with pytest.raises(ValueError, match=r"needs n_ways.*got None"):
        make_learner(kind, n_ways=None)


# The estimators ------------------------------------------------------------------

CLASSIFIERS = [
    MANNClassifier(**SMALL, max_iter=2, random_state=0),
    RecurrentNetClassifier(hidden_size=6, max_iter=2, random_state=0),
]
REGRESSORS = [
    MANNRegressor(**SMALL, max_iter=2, random_state=0),
    RecurrentNetRegressor(hidden_size=6, max_iter=2, random_state=0),
]


def words(n_classes=6, n_rows=8):
    rng = np.random.default_rng(0)
    labels = np.array([f"word {i}" for i in range(n_classes)])
    X = rng.normal(size=(n_classes * n_rows, N_FEATURES))
    return ClassPool(X, np.repeat(labels, n_rows))


@pytest.mark.parametrize("meta", CLASSIFIERS, ids=lambda meta: type(meta).__name__)
def test_fewer_classes_strings_and_one_class(meta):
    pool = words()
    meta.set_params(n_way=3, n_shot=2, n_query=2).fit(pool)
    assert meta.learner_.most_ways == 3
    X, y = pool.X, pool.y
    two = meta.adapt(X[:16:4], y[:16:4])
    assert set(two.predict(X)) <= {"word 0", "word 1"}
    assert two.predict_proba(X).shape == (48, 2)
    one = meta.adapt(X[:2], y[:2])
    np.testing.assert_array_equal(one.predict_proba(X), np.ones((48, 1)))
    with pytest.raises(ValueError, match=r"4 classes.*at most 3.*n_way=4"):
        meta.adapt(X[::10][:4], y[::10][:4])


@pytest.mark.parametrize("meta", REGRESSORS, ids=lambda meta: type(meta).__name__)
def test_two_targets(meta):
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(9, 2)), rng.normal(size=(9, 2))) for _ in range(6)]
    meta.set_params(n_shot=4).fit(TaskSet(pairs))
    X, y = pairs[0]
    model = meta.adapt(X[:4], y[:4])
    assert model.predict(X[4:]).shape == (5, 2)
    y = y.copy()
    y[0, 1] += 3.0
    assert (meta.adapt(X[:4], y[:4]).predict(X[4:]) != model.predict(X[4:])).any()


def test_images_come_as_pixels_or_through_a_backbone():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, size=(48, 8, 8), dtype=np.uint8)
    pool = ClassPool(images, np.repeat(np.arange(6), 8))
    pixels = MANNClassifier(**SMALL, max_iter=1, n_way=3, random_state=0).fit(pool)
    assert pixels.learner_.n_inputs == 64 + 3
    convolved = MANNClassifier(
        lambda shape: ConvNet(shape, 4, 2, generator=torch.Generator().manual_seed(0)),
        **SMALL,
        max_iter=2,
        n_way=3,
        n_shot=1,
        n_query=2,
        random_state=0,
    ).fit(pool)
    first = ConvNet((1, 8, 8), 4, 2, generator=torch.Generator().manual_seed(0))
    trained = dict(convolved.learner_.backbone.named_parameters())
    for name, weight in first.named_parameters():
        assert not torch.equal(weight, trained[name])
    for meta in (pixels, convolved):
        model = meta.adapt(images[:24:4], pool.y[:24:4])
        assert model.predict(images[:5]).shape == (5,)
        with pytest.raises(ValueError, match="8"):
            model.predict(images[:5, :6, :6])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"memory_size": 2.5}, "memory_size"),
        ({"usage_decay": 1.5}, r"usage_decay must be in \(0, 1\], got 1.5"),
        ({"n_reads": 9}, "n_reads must be at most memory_size, got 9 and 8"),
    ],
)
def test_unusable_parameters_are_refused(parameters, message):
    meta = MANNClassifier(**{**SMALL, **parameters})
    with pytest.raises((ValueError, TypeError), match=message):
        meta.fit(words())
