"""A point finds an unseen goal: one policy-gradient step after meta-training.

Goals lie in a square about the start, and only rewards tell where. ProMP is
meta-trained for half a minute; then it meets goals that it has not seen. The figure
shows what it earns before and after gradient steps, and where it goes: without a step
it wanders about the start, after one from 20 episodes it wanders about the goal.

Run with `python plot_point_navigation.py --output FILE`; needs sklmeta[rl,plot].
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt

from sklmeta.inspection import ReturnCurveDisplay, TrajectoryDisplay
from sklmeta.rl import PointGoals, ProMPAgent


def main(argv=None):
    """Meta-train, adapt, draw; return the mean returns before and after a step."""
    options = parse(argv)
    matplotlib.use("Agg")
    torch.set_num_threads(1)  # the nets are small
    goals = PointGoals()
    small = {"max_iter": 2, "batch_size": 3, "n_episodes": 3}
    agent = ProMPAgent(random_state=0, **(small if options.quick else {"max_iter": 12}))
    agent.fit(goals)
    new = goals.sample(5 if options.quick else 50, random_state=1)
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    curve = ReturnCurveDisplay.from_agent(agent, new, name="ProMP", ax=axes[0])
    policies = {"before": agent.adapt(), "after a step": agent.adapt(new[0])}
    for ax, (name, policy) in zip(axes[1:], policies.items(), strict=True):
        TrajectoryDisplay.from_policy(policy, new[0], n_episodes=1, ax=ax)
        ax.set_title(f"Where it goes, {name}", y=-0.25, fontsize=10)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=120)
    plt.close(figure)
    before, after = curve.mean[0]
    print(f"Mean return on unseen goals: {before:.1f} before, {after:.1f} after a step")
    print(f"Figure: {options.output}")
    return before, after


def parse(argv):
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("point_navigation.png"))
    parser.add_argument("--quick", action="store_true", help="hardly train: for tests")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
