"""The section of RESULTS.md on linear mixed models."""

from __future__ import annotations

from typing import Any

from _markdown import Record, origin, table


def mixed_model(record: Record) -> str:
    """Return the section."""
    found = record["results"]
    estimates = [
        (row["estimate"], f"{row['ours']:.6g}", row["lme4"], _yes(row["same"]))
        for row in found["sleepstudy"]
    ]
    twins = [
        (
            _size(row),
            f"{row['ours_s']:.3f}",
            f"{row['statsmodels_s']:.2f}",
            f"{row['ratio']:.0f}",
            row["ours_log_likelihood"],
            row["statsmodels_log_likelihood"],
        )
        for row in found["statsmodels"]
    ]
    alone = [
        (
            _size(row),
            row["covariance"],
            f"{row['fit_s']:.2f}",
            f"{row['predict_tasks_s']:.2f}",
        )
        for row in found["alone"]
    ]
    return "\n".join(
        [
            "## Linear mixed models (`mixed_model.py`)\n",
            "Sleep study (18 people, ten days each), estimates of "
            "`HierarchicalLinearRegressor` by REML, and as lme4 prints them:\n",
            table(("", "sklmeta", "lme4", "same digits"), estimates),
            "Processor time of `fit`, the best of "
            f"{record['parameters']['repeats']}, and of one fit by `MixedLM` of "
            "statsmodels with the same random effects (all coefficients, any "
            "covariance), at sizes at which it takes seconds, not hours; restricted "
            "log-likelihoods. Asked for: at least 20 times faster, the same "
            "likelihood.\n",
            table(
                (
                    *("tasks x rows x features", "sklmeta, s", "statsmodels, s"),
                    *("ratio", "log-likelihood", "statsmodels'"),
                ),
                twins,
            ),
            "`fit` alone, and `predict_tasks` for as many new tasks of 5 support and "
            "5 query rows. Asked for: 1,000 tasks x 50 rows x 20 features in less "
            "than 5 s.\n",
            table(
                ("tasks x rows x features", "covariance", "fit, s", "predict_tasks, s"),
                alone,
            ),
            origin(record) + "\n",
        ]
    )


def _size(row: dict[str, Any]) -> str:
    return f"{row['tasks']:,} x {row['rows']} x {row['features']}"


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
