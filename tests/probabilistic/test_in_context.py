"""The in-context learner: the transformer that it is, and its faces."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sklmeta import InContextClassifier, InContextRegressor
from sklmeta.datasets import GaussianProcessTasks, load_digits_pool
from sklmeta.engine.batches import Rows
from sklmeta.probabilistic import InContext

T, S, Q, WIDTH, HEADS = 2, 5, 4, 8, 2
# Hardly more than a level each, which is learned fast.
TASKS = GaussianProcessTasks(
    length_scale=(20, 20), output_scale=(1, 1), noise=0.1, n_samples=12
)


def torch_layer(block):
    """Return torch's transformer layer with the weights of a block."""
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 16, dropout=0.0, batch_first=True, dtype=torch.float64
    )
    parts = (block.to_query, block.to_key, block.to_value)
    with torch.no_grad():
        attention = layer.self_attn
        attention.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        attention.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        attention.out_proj.load_state_dict(block.output.state_dict())
        layer.linear1.load_state_dict(block.hidden.state_dict())
        layer.linear2.load_state_dict(block.feed_forward.state_dict())
    return layer


def test_it_is_a_transformer_whose_mask_shows_the_context_alone():
    generator = torch.Generator().manual_seed(0)
    learner = InContext(
        nn.Flatten(),
        2,
        1,
        hidden_size=WIDTH,
        n_heads=HEADS,
        feedforward_size=16,
        n_layers=3,
        generator=generator,
    ).double()
    x = torch.randn(T, S + Q, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(T, S, 1, generator=generator, dtype=torch.float64)
    told = torch.cat([y, torch.zeros(T, Q, 1)], 1)
    rows = learner.tokens(torch.cat([x, told], -1))
    unseen = (torch.arange(S + Q) >= S).expand(S + Q, -1)
    for block in learner.layers:
        rows = torch_layer(block)(rows, src_mask=unseen)
    mean, _ = learner.head(rows[:, S:]).chunk(2, -1)
    support = Rows(x[:, :S], y, torch.ones(T, S, dtype=torch.bool))
    found = learner.predict(learner.adapt(support), x[:, S:])
    torch.testing.assert_close(found, mean)


def test_what_is_kept_of_a_task_are_keys_and_values():
    learner = InContext(nn.Flatten(), 1, 1, n_layers=2)
    support = Rows(torch.ones(T, S, 1), torch.ones(T, S, 1), torch.ones(T, S).bool())
    state = learner.adapt(support)
    assert set(state) == {"keys", "values", "mask"}
    assert [k.shape for k in state["keys"]] == 2 * [(T, 1, 4, S, 16)]


@pytest.fixture(scope="module")
def regressor():
    return InContextRegressor(
        hidden_size=16, n_layers=2, max_iter=250, outer_lr=5e-3, random_state=0
    ).fit(TASKS)


def test_it_learns_in_context(regressor):
    tasks = TASKS.sample(100, random_state=1)
    errors = [
        regressor.adapt(task.X[:5], task.y[:5]).predict(task.X[5:]) - task.y[5:]
        for task in tasks
    ]
    assert np.mean(np.square(errors)) < 0.1


def test_faces_of_the_regressor(regressor):
    task = TASKS.sample(1, random_state=2)[0]
    model = regressor.adapt(task.X[:8], task.y[:8])
    mean, std = model.predict(task.X[8:], return_std=True)
    assert mean.shape == std.shape == (4,)
    draws = model.sample_y(task.X[8:], n_samples=4000, random_state=0)
    np.testing.assert_allclose(draws.mean(1), mean, atol=0.05)
    np.testing.assert_allclose(draws.std(1), std, rtol=0.1)
    again = pickle.loads(pickle.dumps(regressor)).adapt(task.X[:8], task.y[:8])
    np.testing.assert_array_equal(again.predict(task.X[8:]), mean)


def test_the_prior_is_wider_than_what_rows_leave(regressor):
    task = TASKS.sample(1, random_state=2)[0]
    _, prior = regressor.adapt().predict(task.X, return_std=True)
    _, std = regressor.adapt(task.X, task.y).predict(task.X, return_std=True)
    assert prior.min() > 2 * std.max()


def test_more_ways_than_in_training():
    pool = load_digits_pool()
    meta = InContextClassifier(
        "identity", hidden_size=16, n_layers=1, n_way=2, max_iter=2, random_state=0
    ).fit(pool[:5])
    new = pool[5:]
    probabilities = meta.adapt(new.X[::20], new.y[::20]).predict_proba(new.X[:7])
    assert probabilities.shape == (7, 5)
    np.testing.assert_allclose(probabilities.sum(1), 1)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_heads": 3}, ValueError, "n_heads must divide hidden_size, got n_heads=3"),
        ({"hidden_size": 0}, ValueError, "hidden_size"),
        ({"n_layers": 0}, ValueError, "n_layers"),
        ({"feedforward_size": 1.5}, TypeError, "feedforward_size"),
        ({"encoder_depth": True}, TypeError, "encoder_depth"),
        ({"min_std": 0}, ValueError, "min_std"),
        ({"prior_fraction": 1.0}, ValueError, "prior_fraction"),
        ({"prior_fraction": -0.1}, ValueError, "prior_fraction"),
    ],
)
def test_refusals(parameters, error, message):
    with pytest.raises(error, match=message):
        InContextRegressor(**parameters).fit(TASKS)
