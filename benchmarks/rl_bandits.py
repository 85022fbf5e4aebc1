"""RL^2 on Bernoulli bandits, beside the optimum and classical policies.

    python benchmarks/rl_bandits.py --arms 5 --pulls 10 --minutes 8

RL^2 is meta-trained for some minutes on bandits whose arms pay with probabilities from
U[0, 1]; whether it then draws its actions or takes the likeliest is chosen on
validation bandits, and so are the parameters of UCB1. All are judged on the same 20,000
test bandits. Where the dynamic program is small enough, no agent can earn more than its
value in expectation. Writes ``results/rl_bandits_<arms>_<pulls>.json``.
"""

from __future__ import annotations

import argparse
from typing import Any

from _report import Benchmark, add_common_options, format_interval
from _rl_training import meta_train, trial_totals
from sklearn.model_selection import ParameterGrid

from sklmeta.rl import (
    BayesOptimalBanditAgent,
    BernoulliBandits,
    RandomAgent,
    RL2Agent,
    ThompsonSamplingAgent,
    UCB1Agent,
    bayes_optimal_bandit_value,
)

VALIDATION_SEED, TEST_SEED = 1_000_001, 1_000_002
EXPLORATIONS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def best_ucb1(bandits: BernoulliBandits, tasks: list[Any], n_pulls: int) -> UCB1Agent:
    """Return UCB1 with the parameters that earn most on validation bandits."""
    grid = {"exploration": EXPLORATIONS, "prior_count": (0.0, 1.0)}
    agents = [
        UCB1Agent(**chosen, n_episodes=n_pulls, random_state=0).fit(bandits)
        for chosen in ParameterGrid(grid)
    ]
    return max(agents, key=lambda agent: agent.score(tasks))


def optimum(n_arms: int, n_pulls: int) -> float | None:
    """Return the Bayes-optimal value, None where the dynamic program is too large."""
    try:
        return bayes_optimal_bandit_value(n_arms, n_pulls)
    except ValueError:
        return None


def main(argv: list[str] | None = None) -> None:
    """Train, judge and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", type=int, default=5)
    parser.add_argument("--pulls", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--trials", type=int, default=1000, help="of an update")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--minibatches", type=int, default=4)
    parser.add_argument("--updates", type=int, default=100, help="between two looks")
    parser.add_argument("--tests", type=int, default=20_000)
    add_common_options(parser)
    args = parser.parse_args(argv)
    name = f"rl_bandits_{args.arms}_{args.pulls}"
    benchmark = Benchmark(name, args.seed, args.threads, args.output)
    bandits = BernoulliBandits(args.arms)
    validation = bandits.sample(args.tests // 2, random_state=VALIDATION_SEED)
    agent = RL2Agent(
        n_episodes=args.pulls,
        hidden_size=args.hidden_size,
        lr=args.lr,
        n_minibatches=args.minibatches,
        batch_size=args.trials,
        device="cpu",
        random_state=args.seed,
    )

    def look(agent: RL2Agent) -> dict[str, float]:
        found = {}
        for key, value in (("drawn", False), ("likeliest", True)):
            agent.set_params(deterministic=value)
            found[key] = args.pulls * agent.score(validation)
        agent.set_params(deterministic=False)
        return found

    curve = meta_train(agent, bandits, args.minutes, args.updates, look)
    agent.set_params(deterministic=curve[-1]["likeliest"] > curve[-1]["drawn"])
    common = {"n_episodes": args.pulls, "random_state": args.seed}
    ucb1 = best_ucb1(bandits, validation, args.pulls)
    agents: dict[str, Any] = {
        "random": RandomAgent(**common).fit(bandits),
        "Thompson sampling": ThompsonSamplingAgent(**common).fit(bandits),
        "UCB1": ucb1,
        "RL^2": agent,
    }
    value = optimum(args.arms, args.pulls)
    if value is not None:
        agents["Bayes-optimal"] = BayesOptimalBanditAgent(**common).fit(bandits)
    tests = bandits.sample(args.tests, random_state=TEST_SEED)
    rows = trial_totals(agents, tests, "RL^2")
    for row in rows:
        print(f"{row['agent']:<20} {format_interval(row, digits=4)}")
    benchmark.write(
        parameters={
            **{key: vars(args)[key] for key in ("arms", "pulls", "minutes", "tests")},
            "agent": {k: v for k, v in agent.get_params().items() if k != "max_iter"},
            "ucb1": {k: getattr(ucb1, k) for k in ("exploration", "prior_count")},
        },
        results={"totals": rows, "optimal_value": value, "curve": curve},
    )


if __name__ == "__main__":
    main()
