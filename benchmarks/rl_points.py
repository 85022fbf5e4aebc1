"""ProMP and MAML on point navigation: returns before and after gradient steps.

    python benchmarks/rl_points.py promp --minutes 8

Goals lie in a square about the start, rewards are minus the distance to them. Policies
are meta-trained for one gradient step from 20 episodes, and judged on unseen goals with
0 to 3 steps, each from 20 episodes of its own. Writes
``results/rl_points_<agent>.json``.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from _report import Benchmark, add_common_options, mean_interval
from _rl_training import meta_train, returns_by_task

from sklmeta.rl import MAMLAgent, PointGoals, ProMPAgent

VALIDATION_SEED, TEST_SEED = 1_000_001, 1_000_002
AGENTS: dict[str, Any] = {
    "promp": ProMPAgent,
    "maml": MAMLAgent,
}
STEPS = 3


def curve_of(agent: Any, goals: list[Any]) -> np.ndarray:
    """Return the returns of each goal after 0 to 3 gradient steps."""
    trained_with = agent.inner_steps
    agent.set_params(inner_steps=STEPS)
    returns = returns_by_task(agent, goals)
    agent.set_params(inner_steps=trained_with)
    return returns


def main(argv: list[str] | None = None) -> None:
    """Train, judge and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("agent", choices=sorted(AGENTS))
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--inner-lr", type=float, default=0.1)
    parser.add_argument("--updates", type=int, default=10, help="between two looks")
    parser.add_argument("--tests", type=int, default=400)
    parser.add_argument("--goals", type=int, default=20, help="of an update")
    parser.add_argument("--episodes", type=int, default=20, help="of a gradient step")
    add_common_options(parser)
    args = parser.parse_args(argv)
    benchmark = Benchmark(
        f"rl_points_{args.agent}", args.seed, args.threads, args.output
    )
    goals = PointGoals()
    validation = goals.sample(args.tests // 4, random_state=VALIDATION_SEED)
    agent = AGENTS[args.agent](
        inner_lr=args.inner_lr,
        batch_size=args.goals,
        n_episodes=args.episodes,
        device="cpu",
        random_state=args.seed,
    )

    def look(agent: Any) -> dict[str, float]:
        means = curve_of(agent, validation).mean(0)
        return {f"after_{step}": float(mean) for step, mean in enumerate(means)}

    training = meta_train(agent, goals, args.minutes, args.updates, look)
    returns = curve_of(agent, goals.sample(args.tests, random_state=TEST_SEED))
    gain = 1 - returns.mean(0) / returns[:, 0].mean()
    print("returns", returns.mean(0).round(2), "less loss by", gain.round(3))
    benchmark.write(
        parameters={
            **{key: vars(args)[key] for key in ("minutes", "tests")},
            "agent": {k: v for k, v in agent.get_params().items() if k != "max_iter"},
        },
        results={
            "returns": [mean_interval(column) for column in returns.T],
            "differences": [
                mean_interval(column - returns[:, 0]) for column in returns.T
            ],
            "improvement": gain.tolist(),
            "curve": training,
        },
    )


if __name__ == "__main__":
    main()
