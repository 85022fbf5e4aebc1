"""RL^2 on Meta-World's ML1: success on held-out goals against environment steps.

    python benchmarks/rl_metaworld.py --minutes 25

The authors' protocol: 50 training and 50 other test goals, episodes of 500 steps, the
goal hidden from the observation of 39 numbers. RL^2 is meta-trained for some minutes on
trials of a few episodes in training goals. The record holds, for a part of the test
goals, the share of episodes with success along training, and in the end for all of
them, by episode of the trial; then Meta-World's own
``evaluation.metalearning_evaluation`` judges the agent on test goals. Writes
``results/rl_metaworld_<environment>.json``.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import pandas as pd
from _report import Benchmark, add_common_options, mean_interval
from _rl_training import meta_train

from sklmeta.rl import MetaWorldAgent, RandomAgent, RL2Agent, metaworld_tasks


def by_episode(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return success and return of each episode of a trial, over goals."""
    return [
        {
            "episode": int(episode),
            "success": mean_interval(rows["success"]),
            "return": mean_interval(rows["return"]),
        }
        for episode, rows in frame.groupby("episode")
    ]


def official(agent: RL2Agent, env_name: str, args: argparse.Namespace) -> Any:
    """Return what Meta-World's own evaluation says."""
    import metaworld
    from metaworld.evaluation import metalearning_evaluation

    envs = metaworld.make_ml_envs_test(
        name=env_name,
        seed=args.seed,
        meta_batch_size=args.official_envs,
        recurrent_info_in_obs=True,
    )
    try:
        success, mean_return, _ = metalearning_evaluation(
            MetaWorldAgent(agent),
            envs,
            num_evals=1,
            adaptation_episodes=args.official_episodes,
            evaluation_episodes=3,
        )
    finally:
        envs.close()
    return {"success": success, "return": mean_return}


def main(argv: list[str] | None = None) -> None:
    """Train, judge and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env-name", default="reach-v3")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--horizon", type=int, default=500)
    parser.add_argument("--episodes", type=int, default=3, help="of a trial")
    parser.add_argument("--trials", type=int, default=10, help="of an update")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--entropy", type=float, default=2e-3)
    parser.add_argument("--sequence-length", type=int, default=100)
    parser.add_argument("--updates", type=int, default=15, help="between two looks")
    parser.add_argument("--looked-at", type=int, default=10, help="test goals")
    parser.add_argument("--official-envs", type=int, default=10)
    parser.add_argument("--official-episodes", type=int, default=3)
    add_common_options(parser)
    args = parser.parse_args(argv)
    short = args.env_name.removesuffix("-v3").replace("-", "_")
    benchmark = Benchmark(f"rl_metaworld_{short}", args.seed, args.threads, args.output)
    both = {
        split: metaworld_tasks(
            "ML1",
            args.env_name,
            split=split,
            seed=args.seed,
            max_episode_steps=args.horizon,
        )
        for split in ("train", "test")
    }
    agent = RL2Agent(
        n_episodes=args.episodes,
        hidden_size=args.hidden_size,
        lr=args.lr,
        entropy_coef=args.entropy,
        sequence_length=args.sequence_length,
        n_minibatches=10,
        batch_size=args.trials,
        device="cpu",
        random_state=args.seed,
    )

    def look(agent: RL2Agent) -> dict[str, float]:
        frame = agent.adaptation_curve(both["test"][: args.looked_at])
        last = frame[frame["episode"] == args.episodes]
        return {
            "train_return": agent.history_[-1]["return"],
            "test_return": float(frame["return"].mean()),
            "success_first": float(frame[frame["episode"] == 1]["success"].mean()),
            "success_last": float(last["success"].mean()),
        }

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gymnasium about Meta-World's spaces
        curve = meta_train(agent, both["train"], args.minutes, args.updates, look)
        results = {
            "rl2": by_episode(agent.adaptation_curve(both["test"])),
            "random": by_episode(
                RandomAgent(n_episodes=1, random_state=args.seed)
                .fit(both["test"])
                .adaptation_curve(both["test"])
            ),
            "official": official(agent, args.env_name, args),
            "curve": curve,
        }
    print({key: value for key, value in results.items() if key != "curve"})
    benchmark.write(
        parameters={
            **{
                key: vars(args)[key]
                for key in ("env_name", "minutes", "horizon", "looked_at")
            },
            "official": {
                "goals": args.official_envs,
                "adaptation_episodes": args.official_episodes,
                "evaluation_episodes": 3,
            },
            "agent": {k: v for k, v in agent.get_params().items() if k != "max_iter"},
        },
        results=results,
    )


if __name__ == "__main__":
    main()
