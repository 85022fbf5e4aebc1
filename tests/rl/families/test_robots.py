"""The half cheetah and Meta-World: rewards, goals, and the traps of the latter."""

import pickle
import warnings

import gymnasium
import numpy as np
import pytest

from sklmeta.rl import (
    CheetahDirectionEnv,
    HalfCheetahDirection,
    HalfCheetahVelocity,
    metaworld_tasks,
)
from sklmeta.rl.families.metaworld import refuse_shared_goals


@pytest.fixture
def mujoco():
    return pytest.importorskip("mujoco")


@pytest.fixture(scope="module")
def metaworld():
    pytest.importorskip("packaging")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("metaworld")


def run(task, n_steps):
    env = task.make_env()
    env.reset(seed=0)
    action = np.full(env.action_space.shape, 0.5, dtype=np.float32)
    steps = [env.step(action) for _ in range(n_steps)]
    env.close()
    return steps


def test_cheetahs_are_rewarded_for_their_direction(mujoco):
    tasks = HalfCheetahDirection(horizon=5).sample(20, random_state=0)
    by_group = {task.group: task for task in tasks}
    assert set(by_group) == {"forward", "backward"}
    forward, backward = (run(by_group[g], 5) for g in ("forward", "backward"))
    for one, other in zip(forward, backward, strict=True):
        control = one[4]["reward_ctrl"]
        assert one[1] == pytest.approx(one[4]["x_velocity"] + control)
        assert other[1] == pytest.approx(-other[4]["x_velocity"] + control)
    assert [step[3] for step in forward] == [False] * 4 + [True]


def test_cheetahs_are_rewarded_for_being_near_a_velocity(mujoco):
    task = HalfCheetahVelocity(horizon=3).sample(1, random_state=0)[0]
    target = task.kwargs["velocity"]
    assert 0 <= target <= 3
    for _, reward, _, _, info in run(task, 3):
        expected = -abs(info["x_velocity"] - target) + info["reward_ctrl"]
        assert reward == pytest.approx(expected)


def test_a_direction_is_one_of_two(mujoco):
    with pytest.raises(ValueError, match="1 or -1"):
        CheetahDirectionEnv(2)


@pytest.fixture(scope="module")
def reach(metaworld):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            s: metaworld_tasks("ML1", "reach-v3", split=s) for s in ("train", "test")
        }


def goals(tasks):
    return {pickle.loads(t.kwargs["goal"])["rand_vec"].tobytes() for t in tasks}


def test_training_and_test_goals_are_disjoint(reach):
    assert len(goals(reach["train"])) == len(goals(reach["test"])) == 50
    assert not goals(reach["train"]) & goals(reach["test"])
    names = [task.name for split in reach.values() for task in split]
    assert len(set(names)) == 100
    assert {task.group for task in reach["train"]} == {"reach-v3"}


def test_goals_that_are_shared_are_refused(reach):
    both = tuple(("reach-v3", task.kwargs["goal"]) for task in reach["train"])
    with pytest.raises(ValueError, match="50 of the test goals"):
        refuse_shared_goals(both, both)


@pytest.mark.filterwarnings("ignore")
def test_a_task_has_one_goal_and_hides_it(reach):
    task = pickle.loads(pickle.dumps(reach["test"][0]))
    env = task.make_env()
    places = []
    for seed in (0, 1):
        observation, _ = env.reset(seed=seed)
        places.append(env.unwrapped._target_pos.copy())
    np.testing.assert_array_equal(*places)
    assert observation.shape == (39,) and not observation[-3:].any()
    *_, info = env.step(env.action_space.sample())
    assert info["success"] in (0.0, 1.0)
    env.close()


@pytest.mark.filterwarnings("ignore")
def test_trap_ids_of_meta_world_train_on_test_goals(metaworld, reach):
    """Why its gymnasium ids are not used: those for training hold the test goals."""
    envs = gymnasium.make_vec(
        "Meta-World/ML1-train", env_name="reach-v3", seed=0, meta_batch_size=1
    )
    held = {
        pickle.loads(task.data)["rand_vec"].tobytes()
        for tasks in envs.get_attr("tasks")
        for task in tasks
    }
    envs.close()
    assert held == goals(reach["test"])


@pytest.mark.filterwarnings("ignore")
def test_trap_seeds_of_resets_change_nothing(metaworld):
    """Why each task has a goal of its own: seeds of resets do not draw one."""
    env = metaworld.ALL_V3_ENVIRONMENTS["reach-v3"]()
    env._freeze_rand_vec = False
    env._set_task_called = True
    env.seed(5)
    env.reset(seed=1)
    first = env._target_pos.copy()
    env.reset(seed=1)
    assert not np.array_equal(first, env._target_pos)
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ML25",), "share an environment"),
        (("ML2",), "benchmark must be one of"),
        (("ML1", "fly-v3"), "env_name must be one of"),
        (("ML10", "reach-v3"), "ML1 only"),
    ],
)
def test_what_meta_world_does_not_have_is_refused(metaworld, arguments, message):
    with pytest.raises(ValueError, match=message):
        metaworld_tasks(*arguments)


def test_horizons_beyond_meta_worlds_are_refused(metaworld):
    with pytest.raises(ValueError, match="at most 500"):
        metaworld_tasks("ML1", "reach-v3", max_episode_steps=501)
