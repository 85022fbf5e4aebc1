"""Families: environments and simulators step for step, and what is drawn."""

import pickle

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from sklmeta.rl import (
    BanditEnv,
    BernoulliBandits,
    GridMazeEnv,
    GridMazes,
    PointGoalEnv,
    PointGoals,
    TabularMDPEnv,
    TabularMDPs,
)

CPU = torch.device("cpu")
FAMILIES = {
    "bandits": BernoulliBandits(4),
    "processes": TabularMDPs(5, 3, horizon=4),
    "points": PointGoals(horizon=6),
    "mazes": GridMazes(3, horizon=7),
}
N_TASKS, N_STEPS = 6, 40


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


class SharedNoise:
    """The same numbers for a simulator and, one column each, for environments."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.uniforms = rng.uniform(size=(N_STEPS, N_TASKS))
        self.normals = rng.normal(size=(N_STEPS, N_TASKS))
        self.step = 0

    def uniform(self, *shape):
        return torch.as_tensor(self.uniforms[self.step], dtype=torch.float32)

    def normal(self, *shape):
        return torch.as_tensor(self.normals[self.step], dtype=torch.float32)


class Column:
    """What an environment draws from: a column of shared noise."""

    def __init__(self, noise, place):
        self.noise, self.place = noise, place

    def random(self):
        return self.noise.uniforms[self.noise.step, self.place]

    def standard_normal(self):
        return self.noise.normals[self.noise.step, self.place]


def made(tasks, noise):
    envs = [task.make_env() for task in tasks]
    for place, env in enumerate(envs):
        env.reset(seed=0)
        env.unwrapped._np_random = Column(noise, place)
    return envs


def drawn_actions(space, rng):
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(space.n, size=N_TASKS)
    return rng.uniform(-0.15, 0.15, size=(N_TASKS, *space.shape)).astype(np.float32)


def test_environment_and_simulator_agree_step_for_step(family):
    tasks = family.sample(N_TASKS, random_state=0)
    noise, rng = SharedNoise(1), np.random.default_rng(2)
    envs = made(tasks, noise)
    kwargs = [task.kwargs for task in tasks]
    steps = tasks[0].max_episode_steps
    simulator = tasks[0].env_fn.simulator(kwargs, steps, noise, CPU)
    assert simulator.observation_space == envs[0].observation_space
    assert simulator.action_space == envs[0].action_space
    first = simulator.reset()
    for env, observation in zip(envs, first, strict=True):
        np.testing.assert_allclose(env.reset()[0], observation)
    n_ended = 0
    for noise.step in range(N_STEPS):
        actions = drawn_actions(envs[0].action_space, rng)
        step = simulator.step(torch.as_tensor(actions))
        ended = step.terminated | step.truncated
        for place, env in enumerate(envs):
            observation, reward, terminated, truncated, info = env.step(actions[place])
            np.testing.assert_allclose(observation, step.observation[place], atol=1e-5)
            assert reward == pytest.approx(float(step.reward[place]), abs=1e-5)
            assert (terminated, truncated) == (
                bool(step.terminated[place]),
                bool(step.truncated[place]),
            )
            if step.success is not None:
                assert info["success"] == float(step.success[place])
        n_ended += int(ended.sum())
        if ended.any():
            again = simulator.reset(ended)
            for place in ended.nonzero().flatten().tolist():
                observation, _ = envs[place].reset()
                np.testing.assert_allclose(observation, again[place])
    assert n_ended > N_TASKS  # further episodes were compared, too


@pytest.mark.filterwarnings("ignore:.*A Box observation space m")  # has no limits
def test_environments_keep_gymnasiums_contract(family):
    task = family.sample(1, random_state=0)[0]
    check_env(task.env_fn(**task.kwargs), skip_render_check=True)


def test_the_same_seed_draws_the_same_tasks(family):
    one, other = (family.sample(3, random_state=4) for _ in range(2))
    third = family.sample(3, random_state=5)
    for a, b, c in zip(one, other, third, strict=True):
        for name, value in a.kwargs.items():
            np.testing.assert_array_equal(value, b.kwargs[name])
        assert any(
            not np.array_equal(value, c.kwargs[name])
            for name, value in a.kwargs.items()
        )


def test_tasks_pickle(family):
    task = pickle.loads(pickle.dumps(family.sample(1, random_state=0)[0]))
    env = task.make_env()
    env.reset(seed=0)
    assert env.observation_space.contains(env.reset()[0])


def test_a_draw_of_bandits_and_processes_has_the_moments_it_should():
    p = np.stack(
        [t.kwargs["probabilities"] for t in BernoulliBandits(5).sample(2000, 0)]
    )
    assert p.mean() == pytest.approx(0.5, abs=0.01)
    assert p.var() == pytest.approx(1 / 12, abs=0.003)
    tasks = TabularMDPs(4, 3).sample(500, 0)
    transitions = np.stack([t.kwargs["transitions"] for t in tasks])
    np.testing.assert_allclose(transitions.sum(-1), 1)
    # Of Dirichlet(1) over 4 states: mean 1/4, variance (1/4)(3/4) / 5.
    assert transitions.mean() == pytest.approx(0.25)
    assert transitions.var() == pytest.approx(0.0375, abs=0.002)
    rewards = np.stack([t.kwargs["mean_rewards"] for t in tasks])
    assert rewards.mean() == pytest.approx(1, abs=0.05)
    assert rewards.std() == pytest.approx(1, abs=0.05)


def test_mazes_have_one_way_between_any_two_cells():
    for task in GridMazes(5).sample(5, random_state=0):
        walls = task.kwargs["walls"]
        assert walls.shape == (11, 11)
        # A tree on 25 cells has 24 passages.
        assert (~walls).sum() == 25 + 24
        assert reached(walls, task.kwargs["start"]) == (~walls).sum()
        assert not walls[task.kwargs["goal"]]


def reached(walls, start):
    seen, front = {start}, [start]
    while front:
        row, column = front.pop()
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1)):
            if not walls[cell] and cell not in seen:
                seen.add(cell)
                front.append(cell)
        cell = (row, column - 1)
        if not walls[cell] and cell not in seen:
            seen.add(cell)
            front.append(cell)
    return len(seen)


def test_the_goal_of_a_maze_pays_and_ends_the_episode():
    walls = np.ones((3, 4), bool)
    walls[1, 1:3] = False
    env = GridMazeEnv(walls, (1, 1), (1, 2))
    observation, _ = env.reset()
    assert observation[9:].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert env.step(0)[1:3] == (-0.01, False)  # a wall
    assert env.step(1)[1:3] == (pytest.approx(0.99), True)


@pytest.mark.parametrize("family", [PointGoals(), GridMazes(3)])
def test_pictures(family):
    task = family.sample(1, random_state=0)[0]
    env = task.make_env(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert before.ndim == 3 and before.shape[2] == 3 and before.dtype == np.uint8
    moved = [
        (env.render() != before).any()
        for action in range(4)
        if env.step(action if "walls" in task.kwargs else np.full(2, 0.1))
    ]
    assert any(moved)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BanditEnv([0.5, 1.2]), "probabilities"),
        (lambda: BanditEnv([]), "probabilities"),
        (lambda: TabularMDPEnv(np.ones((2, 3, 2)), np.ones((2, 3))), "sums of 1"),
        (lambda: TabularMDPEnv(np.ones((2, 3, 3)) / 3, np.ones((2, 3))), "shape"),
        (lambda: PointGoalEnv([1.0]), "two finite numbers"),
        (lambda: GridMazeEnv(np.zeros((4, 4)), (1, 1), (2, 2)), "border"),
        (lambda: GridMazeEnv(np.ones((4, 4)), (1, 1), (2, 2)), "free cell"),
        (lambda: GridMazeEnv(np.ones(4), (1, 1), (2, 2)), "n_rows, n_columns"),
        (lambda: PointGoals(spread=0), "spread"),
        (lambda: GridMazes(size=1), "size"),
        (lambda: TabularMDPs(horizon=0), "horizon"),
        (lambda: BernoulliBandits(n_arms=0), "n_arms"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
