"""Meta-World's meta-learning benchmarks as environment tasks.

Deviations from its gymnasium ids, which in version 3.1.1 hand out the test goals as
training goals: tasks are those of its benchmark objects, each with one goal for good,
and training and test goals are checked to be disjoint.
"""

from __future__ import annotations

import pickle
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np

from sklmeta._parameters import check_choice, check_integer
from sklmeta.rl.tasks import EnvTask

__all__ = ["MetaWorldEnv", "metaworld_tasks"]

BENCHMARKS = ("ML1", "ML10", "ML45")


class MetaWorldEnv(gymnasium.Wrapper):
    """A Meta-World environment with one goal, the same in every episode.

    The goal is hidden from the observation (39 numbers, the last three of them 0), as
    in the meta-learning benchmarks. ``info["success"]`` is 1 in steps that reach it.

    Parameters
    ----------
    env_name : str
        Meta-World's name of the environment, such as "reach-v3".
    goal : bytes
        The data of a Meta-World task.
    render_mode : {"rgb_array"}, default=None
        What `render` gives; needs a graphics library that works without a screen
        (``MUJOCO_GL=egl`` or ``osmesa``).
    """

    def __init__(
        self, env_name: str, goal: bytes, render_mode: str | None = None
    ) -> None:
        metaworld = _imported()
        environments = metaworld.env_dict.ALL_V3_ENVIRONMENTS
        env = environments[env_name](render_mode=render_mode)
        env.set_task(metaworld.Task(env_name=env_name, data=goal))
        super().__init__(env)


def metaworld_tasks(
    benchmark: str = "ML1",
    env_name: str | None = None,
    *,
    split: str = "train",
    seed: int = 0,
    max_episode_steps: int = 500,
) -> list[EnvTask]:
    """Return the tasks of a Meta-World benchmark.

    Parameters
    ----------
    benchmark : {"ML1", "ML10", "ML45"}, default="ML1"
        ML1: 50 goals of one environment to train on, 50 others to test. ML10 and ML45:
        50 goals in each of 10 or 45 training and 5 test environments.
    env_name : str, default=None
        ML1 only: the environment, such as "reach-v3" or "pick-place-v3".
    split : {"train", "test"}, default="train"
        Which tasks.
    seed : int, default=0
        Seed of the goals. Take the same one for both splits: Meta-World draws the test
        goals of ML1 with the seed after it, so that the training goals of seed 1 are
        the test goals of seed 0.
    max_episode_steps : int, default=500
        Steps of an episode, at most 500, after which Meta-World's environments refuse
        to go on.

    Returns
    -------
    list of EnvTask
        The environment's name is the `group` of each.

    Raises
    ------
    ImportError
        If metaworld is not installed.
    ValueError
        If there is no such benchmark or environment, or if training and test goals are
        not disjoint.

    References
    ----------
    Yu et al., *Meta-World: A Benchmark and Evaluation for Multi-Task and Meta
    Reinforcement Learning*, 2019 (arXiv:1910.10897).
    """
    if benchmark == "ML25":
        raise ValueError(
            "ML25 is not offered: its training and test lists share an environment, so "
            f"that test scores would not be of unseen tasks. Take one of {BENCHMARKS}."
        )
    check_choice("benchmark", benchmark, BENCHMARKS)
    check_choice("split", split, ["train", "test"])
    check_integer("seed", seed, 0)
    check_integer("max_episode_steps", max_episode_steps, 1)
    if max_episode_steps > 500:
        raise ValueError(
            f"max_episode_steps must be at most 500, got {max_episode_steps}: "
            "Meta-World's environments refuse to go on after that."
        )
    _check_env_name(benchmark, env_name)
    train, test = _goals(benchmark, env_name, seed)
    counts: dict[str, int] = {}
    tasks = []
    for name, goal in train if split == "train" else test:
        place = counts[name] = counts.get(name, -1) + 1
        tasks.append(
            EnvTask(
                MetaWorldEnv,
                {"env_name": name, "goal": goal},
                name=f"{name} {split} {place}",
                group=name,
                max_episode_steps=max_episode_steps,
            )
        )
    return tasks


def _check_env_name(benchmark: str, env_name: str | None) -> None:
    if benchmark != "ML1":
        if env_name is not None:
            raise ValueError(
                f"env_name={env_name!r} has a meaning for ML1 only; {benchmark} has "
                "environments of its own."
            )
        return
    known = _imported().ML1.ENV_NAMES
    if env_name not in known:
        raise ValueError(
            f"env_name must be one of Meta-World's environments, got {env_name!r}; "
            f"known are {', '.join(known)}."
        )


Goals = tuple[tuple[str, bytes], ...]


@lru_cache(maxsize=4)
def _goals(benchmark: str, env_name: str | None, seed: int) -> tuple[Goals, Goals]:
    """Return the training and the test tasks of a benchmark, by name and goal."""
    metaworld = _imported()
    arguments = () if env_name is None else (env_name,)
    made = getattr(metaworld, benchmark)(*arguments, seed=seed)
    train = tuple((task.env_name, task.data) for task in made.train_tasks)
    test = tuple((task.env_name, task.data) for task in made.test_tasks)
    refuse_shared_goals(train, test)
    return train, test


def refuse_shared_goals(train: Goals, test: Goals) -> None:
    """Raise ValueError if a test goal is also a training goal."""
    shared = {_goal_key(*task) for task in train} & {_goal_key(*task) for task in test}
    if shared:
        raise ValueError(
            f"{len(shared)} of the test goals are training goals too: scores on them "
            "would not be of unseen tasks. Use another seed or version of metaworld."
        )


def _goal_key(env_name: str, goal: bytes) -> tuple[str, bytes]:
    vector = np.asarray(pickle.loads(goal)["rand_vec"], dtype=np.float64)
    return env_name, vector.tobytes()


def _imported() -> Any:
    try:
        import metaworld
        import metaworld.env_dict
    except ImportError as error:
        raise ImportError(
            "Meta-World's tasks need metaworld and packaging (which it does not "
            "declare). Install both: pip install 'sklmeta[metaworld]'"
        ) from error
    return metaworld
