"""Curves of `transfer.py`: accuracy against rows, for each method and kind of images.

python benchmarks/plot_transfer.py --output transfer.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
from _report import RESULTS


def main(argv: list[str] | None = None) -> None:
    """Draw the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, default=RESULTS / "transfer.json")
    parser.add_argument("--output", type=Path, default=Path("transfer.png"))
    args = parser.parse_args(argv)
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    scores = json.loads(args.record.read_text())["results"]["scores"]
    figure, axes = plt.subplots(
        1, len(scores), figsize=(4 * len(scores), 4.4), sharey=True, squeeze=False
    )
    for ax, (target, by_shot) in zip(axes[0], scores.items(), strict=True):
        shots = [int(n_shot) for n_shot in by_shot]
        for place, row in enumerate(next(iter(by_shot.values()))):
            own = [rows[place] for rows in by_shot.values()]
            below = [one["mean"] - one["low"] for one in own]
            above = [one["high"] - one["mean"] for one in own]
            mean = [one["mean"] for one in own]
            ax.errorbar(
                shots, mean, (below, above), capsize=2, marker=".", label=row["method"]
            )
        ax.set(title=target, xlabel="rows of each class", xticks=shots)
    axes[0, 0].set_ylabel("accuracy")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    figure.set_layout_engine("constrained")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=150)
    plt.close(figure)
    print(f"Figure: {args.output}")


if __name__ == "__main__":
    main()
