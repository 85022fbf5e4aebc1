"""Sections on transfer: methods against each other, and what frozen backbones save."""

from __future__ import annotations

from typing import Any

from _markdown import Record, origin, table

WITHOUT_TRANSFER = (
    "the network from scratch",
    "logistic regression on pixels",
    "class means of pixels",
)


def transfer(record: Record) -> str:
    """Return the section on transfer between kinds of images."""
    p, found = record["parameters"], record["results"]
    chosen = "; ".join(
        f"{name}: {', '.join(f'{key} {value:g}' for key, value in own.items())}"
        for name, own in found["parameters"].items()
        if own
    )
    minutes = ", ".join(
        f"{name} {seconds / 60:.1f}"
        for name, seconds in found["seconds"].items()
        if name not in WITHOUT_TRANSFER
    )
    parts = [
        "## Transfer (`transfer.py`)\n",
        "Accuracy in % on 5-way episodes, the same for all methods, with 95 % "
        f"intervals over {p['episodes']} of them; 15 query rows a class (10 where 10 "
        "rows are adapted to). Where two columns share a number of rows, the second is "
        "the paired difference to the same network trained from scratch on the few "
        "rows, with a step size of its own and 50 steps. Methods that transfer learned "
        f"from {p.get('data', '1,100 of Omniglot')}'s training characters, turned by "
        f"quarters; minutes of training: {minutes}. Those with two stages pre-trained "
        "for a fixed number of updates, and had less time in all than the others, "
        "which is to their disadvantage. MAML's strided network of 64 filters, queries "
        "normalised by the support's statistics or running averages. Step sizes of "
        f"fine-tuning were chosen on the other 100 training characters ({chosen}), "
        "those of the other methods were not tuned. "
        "Digits and leaves have 8 x 8 numbers, drawn as pictures.\n",
    ]
    for target, by_shot in found["scores"].items():
        parts += [f"### Of {target}\n", _of_target(by_shot), _hurts(by_shot)]
    parts.append(origin(record) + "\n")
    return "\n".join(parts)


def _of_target(by_shot: dict[str, list[dict[str, Any]]]) -> str:
    header = ["method"]
    for n_shot in by_shot:
        header += [f"{n_shot} rows" if n_shot != "1" else "1 row", "difference"]
    methods = [row["method"] for row in next(iter(by_shot.values()))]
    rows = []
    for place, name in enumerate(methods):
        row = [name]
        for scores in by_shot.values():
            own = scores[place]
            row += [_percent(own, "mean", "low", "high"), _difference(own)]
        rows.append(row)
    return table(header, rows)


def _hurts(by_shot: dict[str, list[dict[str, Any]]]) -> str:
    """Say what is worse than training on the few rows alone."""
    worse = [
        f"{row['method']} at {n_shot}"
        for n_shot, scores in by_shot.items()
        for row in scores
        if row["method"] not in WITHOUT_TRANSFER and row["difference_high"] < 0
    ]
    if not worse:
        return "Transfer hurts nowhere here: no interval of a difference is below 0.\n"
    return f"Transfer hurts here, the interval below 0: {', '.join(worse)} rows.\n"


def _percent(row: dict[str, Any], mean: str, low: str, high: str) -> str:
    return f"{100 * row[mean]:.1f} ± {50 * (row[high] - row[low]):.1f}"


def _difference(row: dict[str, Any]) -> str:
    difference = row["difference"]
    if difference is None or difference != difference:
        return "-"
    keys = ("difference", "difference_low", "difference_high")
    sign = "+" if difference >= 0 else ""
    return sign + _percent(row, *keys)


def transfer_speed(record: Record) -> str:
    """Return the section on what a frozen backbone saves."""
    p, found = record["parameters"], record["results"]
    adapt = found["adapt_ms"]
    rows = [
        (
            "adapting to 5-way 5-shot, 100 steps of a new head",
            f"{adapt['median']:.1f} ms (quickest {adapt['quickest']:.1f})",
            "below 20 ms",
        ),
        (
            f"{p['episodes']:,} episodes of 100 rows, features made once",
            f"{found['features_once_s']:.2f} s",
            "-",
        ),
        (
            "the same, features made in every episode",
            f"{found['every_time_s']:.1f} s, {found['ratio']:.0f} times as long",
            "at least 20 times",
        ),
    ]
    return "\n".join(
        [
            "## Frozen backbones (`transfer_speed.py`)\n",
            "Omniglot's characters and the default network; episodes are of 100 "
            "characters, 2,000 drawings.\n",
            table(("", "sklmeta", "asked for"), rows),
            origin(record) + "\n",
        ]
    )
