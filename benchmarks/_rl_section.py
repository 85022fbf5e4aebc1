"""Section on meta-reinforcement learning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from _markdown import Record, interval, origin, table

# As the papers print them, recalled, not read again.
PUBLISHED = {
    "rl_bandits_5_10": {
        "random": 5.0,
        "Thompson sampling": 5.7,
        "UCB1": 6.7,
        "RL^2": 6.7,
    },
    "rl_bandits_10_10": {
        "random": 5.0,
        "Thompson sampling": 5.5,
        "UCB1": 6.7,
        "RL^2": 6.7,
    },
    "rl_bandits_5_100": {
        "random": 49.9,
        "Thompson sampling": 74.7,
        "UCB1": 78.0,
        "RL^2": 78.7,
    },
    "rl_mdps_10": {"random": 100, "PSRL": 138, "RL^2": 156},
}
INTRODUCTION = (
    "## Meta-reinforcement learning (`rl_*.py`)\n\n"
    "Agents are meta-trained for some minutes of one core, and judged on tasks that "
    "they have not seen, all agents of a table on the same ones; intervals are over "
    "tasks. Published numbers are as recalled.\n"
)


def reinforcement_learning(records: Sequence[Record]) -> str:
    """Return the section on all records of agents."""
    by_kind = {
        "rl_bandits": bandits,
        "rl_mdps": processes,
        "rl_points": points,
        "rl_metaworld": reaching,
    }
    parts = [INTRODUCTION]
    for kind, section in by_kind.items():
        own = [r for r in records if r["benchmark"].startswith(kind)]
        parts += [section(record) for record in own]
    return "\n".join(parts)


def bandits(record: Record) -> str:
    """Return what agents earn in bandits."""
    p, found = record["parameters"], record["results"]
    value = found["optimal_value"]
    known = "" if value is None else f" No agent can expect more than {value:.4f}."
    chosen = ", ".join(
        f"{name.replace('_', ' ')} {number:g}" for name, number in p["ucb1"].items()
    )
    text = (
        f"### Bernoulli bandits, {p['arms']} arms, {p['pulls']} pulls\n\n"
        f"Total reward over {p['tests']:,} bandits; UCB1 with {chosen}, chosen on "
        f"others.{known} {_training(record)}\n"
    )
    return "\n".join([text, _totals(record, digits=3), origin(record) + "\n"])


def processes(record: Record) -> str:
    """Return what agents earn in tabular processes."""
    p = record["parameters"]
    text = (
        f"### Tabular Markov decision processes, {p['episodes']} episodes\n\n"
        f"Total reward over {p['tests']:,} processes of 10 states, 5 actions and 10 "
        f"steps an episode. {_training(record)}\n"
    )
    curve = [
        [f"{row['env_steps']:,.0f}", f"{row['drawn']:.1f}", f"{row['likeliest']:.1f}"]
        for row in _thinned(record["results"]["curve"])
    ]
    header = ["environment steps", "total, drawn actions", "likeliest actions"]
    return "\n".join(
        [
            text,
            _totals(record, digits=1),
            "RL^2 along meta-training, on validation processes:\n",
            table(header, curve),
            origin(record) + "\n",
        ]
    )


def points(record: Record) -> str:
    """Return what gradient steps earn in point navigation."""
    found = record["results"]
    names = {"rl_points_promp": "ProMP", "rl_points_maml": "MAML (TRPO)"}
    columns = found["returns"], found["differences"], found["improvement"]
    rows = [
        [step, interval(own), interval(difference), f"{100 * gain:.0f} %"]
        for step, (own, difference, gain) in enumerate(zip(*columns, strict=True))
    ]
    header = ["gradient steps", "return", "difference to none", "less of the distance"]
    text = (
        f"### Point navigation, {names[record['benchmark']]}\n\n"
        f"Return of an episode on {record['parameters']['tests']} unseen goals; each "
        f"gradient step is taken from {record['parameters']['agent']['n_episodes']} "
        "episodes, and meta-training was for one. "
        f"{_training(record)}\n"
    )
    return "\n".join([text, table(header, rows), origin(record) + "\n"])


def reaching(record: Record) -> str:
    """Return the success of RL^2 in Meta-World."""
    p, found = record["parameters"], record["results"]
    rows = [
        [f"RL^2, episode {row['episode']}", *_success_and_return(row)]
        for row in found["rl2"]
    ]
    rows += [["random actions", *_success_and_return(row)] for row in found["random"]]
    official = found["official"]
    text = (
        f"### Meta-World ML1, {p['env_name']}\n\n"
        f"Success and return on the 50 test goals; episodes of {p['horizon']} steps, "
        "observations of 39 numbers with the goal hidden, as the authors have it; "
        f"trials of {p['agent']['n_episodes']} episodes. {_training(record)} "
        f"Meta-World's own evaluation, on {p['official']['goals']} goals after "
        f"{p['official']['adaptation_episodes']} episodes of adaptation, with the "
        "likeliest actions, which the tables do not take: success "
        f"{100 * official['success']:.0f} %.\n"
    )
    curve = [
        [
            f"{row['env_steps']:,.0f}",
            f"{row['train_return']:.0f}",
            f"{row['test_return']:.0f}",
            f"{100 * row['success_first']:.0f} / {100 * row['success_last']:.0f}",
        ]
        for row in _thinned(found["curve"])
    ]
    header = [
        "environment steps",
        "return, training goals",
        f"return, {p['looked_at']} test goals",
        "success there in %, first / last episode",
    ]
    parts = [text, table(["", "success in %", "return"], rows), table(header, curve)]
    return "\n".join([*parts, origin(record) + "\n"])


def _success_and_return(row: dict[str, Any]) -> list[str]:
    return [interval(row["success"], 100, 0), interval(row["return"], digits=0)]


def _totals(record: Record, digits: int) -> str:
    published = PUBLISHED.get(record["benchmark"], {})

    def difference(row: dict[str, Any]) -> str:
        is_own = row["agent"] == "RL^2"
        return "" if is_own else interval(row["difference"], digits=digits)

    rows = [
        [
            row["agent"],
            interval(row, digits=digits),
            ""
            if row["agent"] == "RL^2"
            else interval(row["difference"], digits=digits),
            published.get(row["agent"], ""),
        ]
        for row in record["results"]["totals"]
    ]
    return table(["agent", "total", "less RL^2's", "published"], rows)


def _training(record: Record) -> str:
    last = record["results"]["curve"][-1]
    agent = record["parameters"]["agent"]
    return (
        f"Meta-training: {last['seconds'] / 60:.0f} minutes, {last['updates']:,} "
        f"updates of {agent['batch_size']:,} tasks, {last['env_steps'] / 1e6:.1f} "
        "million steps."
    )


def _thinned(curve: Sequence[dict[str, Any]], most: int = 8) -> Iterable[Any]:
    """Return some rows of a curve, the last one among them."""
    step = -(-len(curve) // most)
    return [*curve[:-1:step], curve[-1]]
