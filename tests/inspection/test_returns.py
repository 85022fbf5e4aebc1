"""Returns along adaptation, and where policies go: the numbers, drawn."""

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("gymnasium")

from sklmeta.inspection import ReturnCurveDisplay, TrajectoryDisplay
from sklmeta.rl import (
    BernoulliBandits,
    PointGoals,
    ProMPAgent,
    RandomAgent,
    ThompsonSamplingAgent,
)

BANDITS = BernoulliBandits(3)


@pytest.fixture(scope="module")
def agents():
    return {
        "Thompson": ThompsonSamplingAgent(n_episodes=6, random_state=0).fit(BANDITS),
        "random": RandomAgent(n_episodes=6, random_state=0).fit(BANDITS),
    }


def test_means_and_intervals_are_those_of_the_curve(agents):
    tasks = BANDITS.sample(30, random_state=0)
    display = ReturnCurveDisplay.from_agents(agents, tasks, confidence=0.8)
    assert display.points.tolist() == [1, 2, 3, 4, 5, 6]
    for row, agent in enumerate(agents.values()):
        returns = agent.adaptation_curve(tasks)["return"].to_numpy().reshape(30, 6)
        low, high = stats.t.interval(
            0.8, 29, returns.mean(0), stats.sem(returns, axis=0)
        )
        np.testing.assert_allclose(display.mean[row], returns.mean(0))
        np.testing.assert_allclose(display.low[row], low)
        np.testing.assert_allclose(display.high[row], high)
        np.testing.assert_array_equal(
            display.lines_[row].get_ydata(), display.mean[row]
        )
    assert display.ax_.get_xlabel() == "Episode"
    assert display.ax_.get_ylabel() == "Return, mean and 80 % interval"


def test_gradient_steps_are_counted_from_none():
    goals = PointGoals(horizon=3)
    agent = ProMPAgent(n_episodes=2, max_iter=1, random_state=0).fit(goals)
    display = ReturnCurveDisplay.from_agent(agent, goals, metric="success", name="a")
    assert display.points.tolist() == [0, 1]
    assert display.ax_.get_xlabel() == "Gradient step"
    with pytest.raises(ValueError, match="count the same"):
        ReturnCurveDisplay.from_agents(
            {"a": agent, "b": RandomAgent(random_state=0).fit(goals)}, goals
        )


def test_success_that_is_not_told_is_refused(agents):
    with pytest.raises(ValueError, match="'success'"):
        ReturnCurveDisplay.from_agents(agents, BANDITS, metric="success")
    with pytest.raises(ValueError, match="metric must be one of"):
        ReturnCurveDisplay.from_agents(agents, BANDITS, metric="regret")


def test_paths_are_where_the_policy_was():
    goals = PointGoals(horizon=4)
    task = goals.sample(1, random_state=0)[0]
    policy = RandomAgent(random_state=0).fit(goals).adapt(task, n_episodes=1)
    display = TrajectoryDisplay.from_policy(policy, task, n_episodes=2)
    assert [path.shape for path in display.paths] == [(5, 2), (5, 2)]
    for path in display.paths:
        np.testing.assert_array_equal(path[0], 0)
        assert 0 < np.abs(np.diff(path, axis=0)).max() <= 0.1 + 1e-6
    np.testing.assert_array_equal(display.goal, task.kwargs["goal"])
    np.testing.assert_array_equal(display.lines_[1].get_xydata(), display.paths[1])


def test_coordinates_that_observations_do_not_have_are_refused():
    task = BANDITS.sample(1, random_state=0)[0]
    policy = RandomAgent(random_state=0).fit(BANDITS).adapt(task)
    with pytest.raises(ValueError, match="coordinates must be two places"):
        TrajectoryDisplay.from_policy(policy, task)
