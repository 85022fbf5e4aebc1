"""Videos of what a policy does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gymnasium.wrappers import RecordVideo

from sklmeta._parameters import check_integer
from sklmeta.rl.episodes import act_episode
from sklmeta.rl.policies import AdaptedPolicy
from sklmeta.rl.tasks import as_env_tasks

__all__ = ["record_video"]


def record_video(
    policy: AdaptedPolicy,
    task: Any,
    folder: str | Path,
    n_episodes: int = 1,
    name_prefix: str = "policy",
    seed: int | None = None,
) -> list[float]:
    """Write a video of each of some episodes, by gymnasium's RecordVideo.

    Parameters
    ----------
    policy : AdaptedPolicy
        What `adapt` returned; it acts on, and remembers.
    task : EnvTask, callable, gymnasium id or EnvSpec
        Where; its environment must take ``render_mode="rgb_array"``.
    folder : str or Path
        Where the files go, made if needed.
    n_episodes : int, default=1
        Number of episodes.
    name_prefix : str, default="policy"
        Files are called ``<name_prefix>-episode-<number>.mp4``.
    seed : int, default=None
        Seed of the environment.

    Returns
    -------
    list of float
        The return of each episode.

    Raises
    ------
    ValueError
        If the environment does not draw itself.
    gymnasium.error.DependencyNotInstalled
        If moviepy is not installed.

    Notes
    -----
    Environments of MuJoCo, Meta-World's among them, draw through a graphics library.
    Without a screen, set ``MUJOCO_GL`` to ``egl`` or ``osmesa`` before it is imported.
    """
    check_integer("n_episodes", n_episodes, 1)
    chosen = as_env_tasks(task)[0]
    try:
        made = chosen.make_env(render_mode="rgb_array")
    except TypeError as error:
        raise ValueError(
            f"The environment of {chosen} does not take render_mode='rgb_array', so "
            f"that it cannot be filmed: {error}."
        ) from error
    env = RecordVideo(
        made,
        str(folder),
        episode_trigger=lambda episode: True,
        name_prefix=name_prefix,
        disable_logger=True,
    )
    try:
        return [
            sum(act_episode(policy, env, seed if place == 0 else None).rewards)
            for place in range(n_episodes)
        ]
    finally:
        env.close()
