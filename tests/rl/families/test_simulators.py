"""Simulators: episodes that end apart, mixed batches, and what is refused by name."""

from collections import deque

import numpy as np
import pytest
import torch
from scipy import stats

from sklmeta.exceptions import EnvTaskError
from sklmeta.rl import (
    BanditEnv,
    BernoulliBandits,
    EnvTask,
    GridMazeEnv,
    GridMazes,
    PointGoalEnv,
    PointGoals,
    TabularMDPEnv,
    TabularMDPs,
)
from sklmeta.rl._env_pool import EnvPool
from sklmeta.rl._simulators import TorchNoise

CPU = torch.device("cpu")


def simulated(tasks, seed=0):
    noise = TorchNoise(torch.Generator().manual_seed(seed))
    steps = tasks[0].max_episode_steps
    return tasks[0].env_fn.simulator([t.kwargs for t in tasks], steps, noise, CPU)


@pytest.mark.parametrize("family", [PointGoals(horizon=8), GridMazes(3, horizon=8)])
def test_any_environments_can_be_reset_at_any_time(family):
    tasks = family.sample(4, random_state=0)
    envs, simulator = [task.make_env() for task in tasks], simulated(tasks)
    rng = np.random.default_rng(1)
    simulator.reset()
    for env in envs:
        env.reset(seed=0)
    for _ in range(30):
        actions = np.stack([env.action_space.sample() for env in envs])
        step = simulator.step(torch.as_tensor(actions))
        for place, env in enumerate(envs):
            observation, reward, terminated, truncated, _ = env.step(actions[place])
            np.testing.assert_allclose(observation, step.observation[place], atol=1e-5)
            assert reward == pytest.approx(float(step.reward[place]), abs=1e-5)
            assert terminated == bool(step.terminated[place])
            assert truncated == bool(step.truncated[place])
        mask = (step.terminated | step.truncated).numpy() | (rng.random(4) < 0.3)
        observations = simulator.reset(torch.as_tensor(mask))
        for place in np.flatnonzero(mask):
            observation, _ = envs[place].reset()
            np.testing.assert_allclose(observation, observations[place])


def test_points_arrive_at_times_of_their_own():
    goals = [(0.25, 0.0), (0.05, -0.02), (-0.31, 0.42), (0.9, 0.9)]
    tasks = [EnvTask(PointGoalEnv, {"goal": g}, max_episode_steps=5) for g in goals]
    simulator = simulated(tasks)
    position = simulator.reset()
    arrival = np.zeros(4, dtype=int)
    for time in range(1, 6):
        step = simulator.step(torch.tensor(goals) - position)
        arrival[(step.terminated.numpy()) & (arrival == 0)] = time
        assert step.truncated.tolist() == [time == 5] * 4
        position = step.observation
    # Along each axis 0.1 a step. The third arrives in the step that is also the last.
    assert arrival.tolist() == [3, 1, 5, 0]


def test_points_are_rewarded_for_where_they_come_to_and_go_no_faster():
    env = PointGoalEnv((0.3, 0.4))
    env.reset(seed=0)
    observation, reward, *_ = env.step([5.0, 0.05])
    assert observation == pytest.approx([0.1, 0.05])
    assert reward == pytest.approx(-np.hypot(0.2, 0.35))


def test_mazes_of_different_sizes_are_as_each_alone():
    tasks = [task for n in (2, 5) for task in GridMazes(n, horizon=20).sample(3, n)]
    together, alone = simulated(tasks), [simulated([task]) for task in tasks]
    together.reset()
    for one in alone:
        one.reset()
    actions = torch.as_tensor(np.random.default_rng(0).integers(4, size=(20, 6)))
    for row in actions:
        step = together.step(row)
        for place, one in enumerate(alone):
            single = one.step(row[place : place + 1])
            assert torch.equal(single.observation[0], step.observation[place])
            assert single.reward[0] == step.reward[place]


def test_the_goal_of_a_maze_is_the_farthest_cell():
    for task in GridMazes(4).sample(5, random_state=1):
        distance = distances(task.kwargs["walls"], task.kwargs["start"])
        assert distance[task.kwargs["goal"]] == max(distance.values()) > 2


def distances(walls, start):
    distance, front = {start: 0}, deque([start])
    while front:
        row, column = front.popleft()
        around = [(row + 1, column), (row - 1, column)]
        around += [(row, column + 1), (row, column - 1)]
        for cell in around:
            if not walls[cell] and cell not in distance:
                distance[cell] = distance[row, column] + 1
                front.append(cell)
    return distance


def test_next_states_come_as_often_as_the_table_says():
    task = TabularMDPs(4, 2).sample(1, random_state=0)[0]
    simulator = simulated([task] * 4000)
    assert simulator.reset().eq(0).all()
    step = simulator.step(torch.ones(4000, dtype=torch.long))
    counts = np.bincount(step.observation, minlength=4)
    expected = 4000 * task.kwargs["transitions"][0, 1]
    assert stats.chisquare(counts, expected).pvalue > 0.01
    rewards = step.reward.numpy() - task.kwargs["mean_rewards"][0, 1]
    assert stats.kstest(rewards, stats.norm.cdf).pvalue > 0.01


def test_impossible_next_states_do_not_come():
    transitions = np.zeros((3, 1, 3))
    transitions[..., 1] = 1
    kwargs = {"transitions": transitions, "mean_rewards": np.zeros((3, 1))}
    simulator = simulated([EnvTask(TabularMDPEnv, kwargs)] * 1000)
    simulator.reset()
    for _ in range(3):
        step = simulator.step(torch.zeros(1000, dtype=torch.long))
        assert step.observation.eq(1).all()


def test_goals_of_points_are_uniform_in_their_square():
    tasks = PointGoals(spread=0.5).sample(2000, random_state=0)
    goals = np.stack([task.kwargs["goal"] for task in tasks])
    uniform = stats.uniform(-0.5, 1).cdf
    assert stats.kstest(goals[:, 0], uniform).pvalue > 0.01
    assert stats.kstest(goals[:, 1], uniform).pvalue > 0.01


def test_pictures_of_points_have_y_upwards():
    env = PointGoalEnv((0.0, 0.8), render_mode="rgb_array")
    env.reset(seed=0)
    rows, columns = np.nonzero((env.render() == (40, 160, 60)).all(-1))
    assert rows.mean() == pytest.approx(0.1 * 128, abs=1)
    assert columns.mean() == pytest.approx(64, abs=1)


class PaysMore(BanditEnv):
    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, 5.0, terminated, truncated, info


def test_a_subclass_is_not_simulated_as_what_it_changes():
    task = EnvTask(PaysMore, {"probabilities": [0.5, 0.5]}, name="more")
    with EnvPool("sync", None) as pool:
        envs = pool.batched([task], 0, CPU)
        envs.reset()
        assert envs.step(torch.zeros(1, dtype=torch.long)).reward == 5


WALLS = np.pad(np.zeros((2, 2), bool), 1, constant_values=True)
OPEN = np.zeros((4, 4), bool)


@pytest.mark.parametrize(
    ("env_fn", "good", "bad", "message"),
    [
        (BanditEnv, {"probabilities": [0.5]}, {"probabilities": [2.0]}, "0, 1"),
        (BanditEnv, {"probabilities": [0.5]}, {"probability": [0.5]}, "probability"),
        (
            BanditEnv,
            {"probabilities": [0.5]},
            {"probabilities": [0.5, 0.1]},
            r"Discrete\(2\), that of task 'good'",
        ),
        (
            TabularMDPEnv,
            {"transitions": [[[1.0]]], "mean_rewards": [[1.0]]},
            {"transitions": [[[0.5]]], "mean_rewards": [[1.0]]},
            "sums of 1",
        ),
        (
            TabularMDPEnv,
            {"transitions": [[[1.0]]], "mean_rewards": [[1.0]]},
            {"transitions": [[[1.0]]], "mean_rewards": [[np.nan]]},
            "finite",
        ),
        (PointGoalEnv, {"goal": (0, 1)}, {"goal": (0, np.nan)}, "two finite"),
        (
            PointGoalEnv,
            {"goal": (0, 1)},
            {"goal": (0, 1), "goal_radius": 0},
            "goal_radius must be above 0",
        ),
        (PointGoalEnv, {"goal": (0, 1)}, {"goal": (0, 1), "radius": 1}, "radius"),
        (
            GridMazeEnv,
            {"walls": WALLS, "start": (1, 1), "goal": (2, 2)},
            {"walls": OPEN, "start": (1, 1), "goal": (2, 2)},
            "border",
        ),
        (
            GridMazeEnv,
            {"walls": WALLS, "start": (1, 1), "goal": (2, 2)},
            {"walls": WALLS, "start": (1, 1), "goal": (0, -1)},
            "goal must be a free cell",
        ),
    ],
)
def test_the_task_that_cannot_be_simulated_is_named(env_fn, good, bad, message):
    tasks = [EnvTask(env_fn, good, name="good"), EnvTask(env_fn, bad, name="bad")]
    with (
        EnvPool("sync", None) as pool,
        pytest.raises(EnvTaskError, match=message) as caught,
    ):
        pool.batched(tasks, 0, CPU)
    assert caught.value.task_name == "bad"


def test_bandits_with_one_arm_are_bandits():
    simulator = simulated(BernoulliBandits(1).sample(3, random_state=0))
    step = simulator.step(torch.zeros(3, dtype=torch.long))
    assert step.terminated.all() and not step.truncated.any()
