"""The section of RESULTS.md on Omniglot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from _markdown import Record, bullets, interval, origin, table, where

__all__ = ["omniglot"]

# Accuracies in percent, by how query rows are normalised and by (ways, shots).
PUBLISHED: dict[tuple[str, str], dict[tuple[int, int], str]] = {
    ("maml", "transductive"): {
        (5, 1): "98.7 ± 0.4",
        (5, 5): "99.9 ± 0.1",
        (20, 1): "95.8 ± 0.3",
        (20, 5): "98.9 ± 0.2",
    },
    ("mamlmlp", "transductive"): {(5, 1): "89.7 ± 1.1", (5, 5): "97.5 ± 0.6"},
    ("fomaml", "transductive"): {
        (5, 1): "98.3 ± 0.5",
        (5, 5): "99.2 ± 0.2",
        (20, 1): "89.4 ± 0.5",
        (20, 5): "97.9 ± 0.1",
    },
    ("anil", "transductive"): {(20, 1): "96.2 ± 0.5", (20, 5): "98.0 ± 0.3"},
    ("metasgd", "transductive"): {(5, 1): "99.53 ± 0.26", (5, 5): "99.93 ± 0.09"},
    ("reptile", "inductive"): {
        (5, 1): "95.39 ± 0.09",
        (5, 5): "98.90 ± 0.10",
        (20, 1): "88.14 ± 0.15",
        (20, 5): "96.65 ± 0.33",
    },
    ("reptile", "transductive"): {
        (5, 1): "97.68 ± 0.04",
        (5, 5): "99.48 ± 0.06",
        (20, 1): "89.43 ± 0.14",
        (20, 5): "97.12 ± 0.32",
    },
    ("protonet", "inductive"): {
        (5, 1): "98.8",
        (5, 5): "99.7",
        (20, 1): "96.0",
        (20, 5): "98.9",
    },
    ("matching", "inductive"): {
        (5, 1): "98.1",
        (5, 5): "98.9",
        (20, 1): "93.8",
        (20, 5): "98.5",
    },
    ("relation", "inductive"): {
        (5, 1): "99.6*",
        (5, 5): "99.8*",
        (20, 1): "97.6*",
        (20, 5): "99.1*",
    },
    ("ridge", "inductive"): {
        (5, 1): "98.6*",
        (5, 5): "99.7*",
        (20, 1): "94.7*",
        (20, 5): "98.9*",
    },
}
REPRODUCED: dict[tuple[str, str], dict[tuple[int, int], str]] = {
    ("maml", "transductive"): {
        (5, 1): "98.1",
        (5, 5): "99.8",
        (20, 1): "91.6",
        (20, 5): "95.9",
    },
    ("mamlmlp", "transductive"): {(5, 1): "88.9"},
    ("protonet", "inductive"): {
        (5, 1): "98.2",
        (5, 5): "99.4",
        (20, 1): "95.8",
        (20, 5): "98.6",
    },
    ("matchingl2", "inductive"): {
        (5, 1): "98.3",
        (5, 5): "99.8",
        (20, 1): "92.8",
        (20, 5): "97.8",
    },
}
METHODS = {
    "maml": "MAML, convolutions",
    "mamlmlp": "MAML, MLP",
    "fomaml": "first-order MAML",
    "anil": "ANIL",
    "metasgd": "Meta-SGD",
    "reptile": "Reptile",
    "protonet": "ProtoNet",
    "matching": "Matching, cosine",
    "matchingfce": "Matching, cosine, context",
    "matchingl2": "Matching, Euclidean",
    "matchingl2fce": "Matching, Euclidean, context",
    "relation": "Relation network",
    "ridge": "R2-D2",
}


def omniglot(records: Sequence[Record]) -> str:
    """Return the section on Omniglot."""
    rows, notes = [], []
    for number, record in enumerate(records, 1):
        p, found = record["parameters"], record["results"]
        method, key = p["method"], (p["ways"], p["shots"])
        for kind, accuracy in found["accuracy"].items():
            rows.append(
                (
                    METHODS[method] + _variant(p),
                    f"{key[0]}-way {key[1]}-shot",
                    kind,
                    interval(accuracy, 100),
                    PUBLISHED.get((method, kind), {}).get(key, "-"),
                    REPRODUCED.get((method, kind), {}).get(key, "-"),
                    f"{found['training_s'] / 60:.1f}",
                    f"{found['n_updates']:,}",
                    where(record),
                    f"({number})",
                )
            )
        notes.append(f"({number}) {origin(record)}\n")
        notes.append(_curve(found["validation_curve"]) + "\n")
        notes.append(bullets(record["deviations"]))
    header = (
        *("method", "task", "query normalisation", "sklmeta", "paper"),
        *("re-implementations", "minutes", "meta-updates", "on", "run"),
    )
    return "\n".join(
        [
            "## Omniglot (`omniglot.py`)\n",
            "Accuracy in % on episodes of the 423 held-out characters, "
            "15 query rows per class unless a run says otherwise. Papers: "
            "Finn, Abbeel and Levine 2017 (arXiv:1703.03400), MAML; Raghu et al. 2020 "
            "(arXiv:1909.09157), ANIL; Li et al. 2017 (arXiv:1707.09835), Meta-SGD; "
            "Nichol, Achiam and Schulman 2018 (arXiv:1803.02999), Reptile; Snell, "
            "Swersky and Zemel 2017 (arXiv:1703.05175), ProtoNet; Vinyals et al. 2016 "
            "(arXiv:1606.04080), Matching Networks; Sung et al. 2018 "
            "(arXiv:1711.06025), relation networks; Bertinetto et al. 2019 "
            "(arXiv:1805.08136), R2-D2. Figures with a star are as recalled. "
            "Re-implementations are those of others. Minutes are of meta-training, "
            "validation included. Ways start at zero unless a head is named: with one "
            "inner step MAML then adapts its output layer alone, with more all layers. "
            "Runs of metric learners at one number of shots share their weights.\n",
            table(header, rows),
            "Runs, and how each deviates from its paper:\n",
            *notes,
        ]
    )


def _variant(parameters: Mapping[str, Any]) -> str:
    """Return what tells runs of a method apart: inner steps in training, the head."""
    steps, head = parameters.get("inner_steps"), parameters.get("head", "shared")
    found = "" if steps is None else f", {steps} inner step{'s' if steps > 1 else ''}"
    return found if head in ("shared", None) else f"{found}, {head} head"


def _curve(points: Sequence[Mapping[str, Any]], n_shown: int = 8) -> str:
    """Return validation accuracy over meta-updates, at most some points of it."""
    last = len(points) - 1
    places = sorted({round(i * last / (n_shown - 1)) for i in range(n_shown)})
    shown = ", ".join(
        f"{points[i]['updates']:,}: {100 * points[i]['accuracy']:.1f}" for i in places
    )
    return f"Accuracy on validation characters, by meta-updates: {shown}."
