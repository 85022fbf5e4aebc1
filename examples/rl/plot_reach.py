"""A robot arm reaches for goals that it cannot see: RL^2 on Meta-World's ML1.

A simulated arm is rewarded for bringing its hand to a place that its observation does
not tell. RL^2 is meta-trained on 50 such places, and then has trials of a few episodes
with other ones, in which it has to find each place out. The figure shows the share of
episodes with success along a trial, beside random actions, and a short video shows the
last trial. ``--env-name pick-place-v3`` attempts grasping, which is much harder: some
minutes of training are too few for it, and the figure says so.

Run with `python plot_reach.py --minutes 25 --output FILE`; needs
sklmeta[metaworld,plot]. Minutes are of meta-training; a few give first successes at
best. The video needs a graphics library that works without a screen: the script asks
MuJoCo for ``osmesa`` (Debian and Ubuntu: libosmesa6) unless ``MUJOCO_GL`` is set.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "osmesa")  # read when MuJoCo is imported

import matplotlib
import torch
from matplotlib import pyplot as plt

from sklmeta.inspection import ReturnCurveDisplay
from sklmeta.rl import RandomAgent, RL2Agent, metaworld_tasks, record_video


def main(argv=None):
    """Meta-train, adapt to unseen places, draw and film; return the display."""
    options = parse(argv)
    matplotlib.use("Agg")
    torch.set_num_threads(1)  # the nets are small
    warnings.filterwarnings("ignore", module="gymnasium")  # of Meta-World's spaces
    train, test = (
        metaworld_tasks(
            "ML1", options.env_name, split=s, max_episode_steps=options.horizon
        )
        for s in ("train", "test")
    )
    agent = RL2Agent(
        n_episodes=options.episodes,
        hidden_size=64,
        lr=1e-3,
        entropy_coef=2e-3,
        sequence_length=100,
        n_minibatches=10,
        batch_size=10,
        max_iter=options.updates,
        warm_start=True,
        random_state=0,
    )
    end = time.perf_counter() + 60 * options.minutes
    while not hasattr(agent, "n_iter_") or time.perf_counter() < end:
        agent.fit(train)
        row = agent.history_[-1]
        print(f"{row['env_steps']:>9,} steps, return of an episode {row['return']:.0f}")
    random = RandomAgent(n_episodes=options.episodes, random_state=0).fit(train)
    display = ReturnCurveDisplay.from_agents(
        {"RL^2": agent, "random actions": random},
        test[: options.goals],
        metric="success",
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    display.figure_.savefig(options.output, dpi=150)
    plt.close(display.figure_)
    print(f"Success by episode of a trial: {display.mean[0].round(2)}")
    print(f"Figure: {options.output}")
    film(agent, test[0], options)
    return display


def film(agent, task, options):
    """Write a video of one more episode in an environment that was adapted to."""
    policy = agent.adapt(task)
    try:
        record_video(policy, task, options.output.parent, name_prefix=options.video)
    except Exception as error:  # graphics libraries raise errors of many kinds
        print(f"No video: {type(error).__name__}: {error}")
        print("Set MUJOCO_GL to a library that is installed: osmesa, egl or glfw.")
    else:
        print(f"Video: {options.output.parent / options.video}-episode-0.mp4")


def parse(argv):
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("reach.png"))
    parser.add_argument("--video", default="reach", help="how its name begins")
    parser.add_argument("--env-name", default="reach-v3")
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--updates", type=int, default=5, help="between two prints")
    parser.add_argument("--horizon", type=int, default=500)
    parser.add_argument("--episodes", type=int, default=3, help="of a trial")
    parser.add_argument("--goals", type=int, default=10, help="to judge on")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
