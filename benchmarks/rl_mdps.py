"""RL^2 on random tabular Markov decision processes, beside posterior sampling.

    python benchmarks/rl_mdps.py --minutes 25

Processes of 10 states and 5 actions, episodes of 10 steps, trials of 10 episodes. RL^2
is meta-trained for some minutes; whether it then draws its actions or takes the
likeliest is chosen on validation processes, as is the prior of posterior sampling. All
are judged on the same test processes. Writes ``results/rl_mdps_<episodes>.json``.
"""

from __future__ import annotations

import argparse
from typing import Any

from _report import Benchmark, add_common_options, format_interval
from _rl_training import meta_train, trial_totals

from sklmeta.rl import PSRLAgent, RandomAgent, RL2Agent, TabularMDPs

VALIDATION_SEED, TEST_SEED = 1_000_001, 1_000_002


def main(argv: list[str] | None = None) -> None:
    """Train, judge and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--trials", type=int, default=300, help="of an update")
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--last-lr", type=float, default=5e-4)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--gae-lambda", type=float, default=0.9)
    parser.add_argument("--entropy", type=float, default=0.015)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--minibatches", type=int, default=10)
    parser.add_argument("--updates", type=int, default=20, help="between two looks")
    parser.add_argument("--tests", type=int, default=4000)
    add_common_options(parser)
    args = parser.parse_args(argv)
    benchmark = Benchmark(
        f"rl_mdps_{args.episodes}", args.seed, args.threads, args.output
    )
    processes = TabularMDPs()
    validation = processes.sample(args.tests // 4, random_state=VALIDATION_SEED)
    agent = RL2Agent(
        n_episodes=args.episodes,
        hidden_size=args.hidden_size,
        lr=args.lr,
        gae_lambda=args.gae_lambda,
        entropy_coef=args.entropy,
        n_epochs=args.epochs,
        n_minibatches=args.minibatches,
        batch_size=args.trials,
        device="cpu",
        random_state=args.seed,
    )

    def look(agent: RL2Agent) -> dict[str, float]:
        found = {}
        for key, value in (("drawn", False), ("likeliest", True)):
            agent.set_params(deterministic=value)
            found[key] = args.episodes * agent.score(validation)
        agent.set_params(deterministic=False)
        return found

    curve = meta_train(agent, processes, args.minutes, args.updates, look, args.last_lr)
    agent.set_params(deterministic=curve[-1]["likeliest"] > curve[-1]["drawn"])
    common = {"n_episodes": args.episodes, "random_state": args.seed}
    agents: dict[str, Any] = {
        "random": RandomAgent(**common).fit(processes),
        "PSRL": PSRLAgent(**common).fit(processes),
        "PSRL, prior mean 0": PSRLAgent(reward_mean=0.0, **common).fit(processes),
        "plan for the posterior mean": PSRLAgent(deterministic=True, **common).fit(
            processes
        ),
        "RL^2": agent,
    }
    tests = processes.sample(args.tests, random_state=TEST_SEED)
    rows = trial_totals(agents, tests, "RL^2")
    for row in rows:
        print(f"{row['agent']:<28} {format_interval(row)}")
    benchmark.write(
        parameters={
            **{key: vars(args)[key] for key in ("episodes", "minutes", "tests")},
            "lr": [args.lr, args.last_lr],
            "agent": {k: v for k, v in agent.get_params().items() if k != "max_iter"},
        },
        results={"totals": rows, "curve": curve},
    )


if __name__ == "__main__":
    main()
