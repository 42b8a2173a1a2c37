"""The tables of ``docs/synthetic.md``, made from ``results/synthetic_probes.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

CHANNELS_OF_THE_CUE = {
    "without": "without the cue as channels",
    "with": "with the cue as channels",
    "random": "with a random direction for each cue",
}
CLASSES_OF_THE_CUE = ("bounce-after-left", "bounce-after-right")


def tables(found: dict[str, Any]) -> str:
    """Return the tables of all parts in markdown."""
    head, full = (found[part]["measured"] for part in ("head-only", "full-finetune"))
    steps = full[0]["steps"]
    rows = {
        f"head-only, {steps // 2} steps": head["half the steps"],
        f"head-only, {steps} steps": head["without"],
        f"head-only, {2 * steps} steps": head["twice the steps"],
        f"full-finetune, {steps} steps": full,
    }
    parts = [
        _table(
            ["run", "seeds", "mAP", "class-agnostic&nbsp;AP", "localization+background", "cpu&nbsp;s"],
            [
                [
                    name,
                    str(len(runs)),
                    *(
                        _mean(run[key] for run in runs)
                        for key in ("mAP", "class_agnostic_AP", "localization_and_background", "cpu_seconds")
                    ),
                ]
                for name, runs in rows.items()
            ],
        ),
        _table(
            ["head-only", "bounce-after-left", "bounce-after-right", "other classes", "mAP"],
            [
                [
                    label,
                    *(_mean(run["AP"][each] for run in head[name]) for each in CLASSES_OF_THE_CUE),
                    _mean(_others(run) for run in head[name]),
                    _mean(run["mAP"] for run in head[name]),
                ]
                for name, label in CHANNELS_OF_THE_CUE.items()
            ],
        ),
    ]
    linear = found["linear"]["measured"]
    readings = [key for key in next(iter(linear["source-0"].values())) if key != "clips"]
    parts.append(
        _table(
            ["source, question", "clips (fit, test)", *readings],
            [
                [
                    f"{source}, {name}",
                    " / ".join(map(str, row["clips"])),
                    *(f"{row[key]:.1f}" for key in readings),
                ]
                for source, questions in linear.items()
                for name, row in sorted(questions.items())
            ],
        )
    )
    return "\n\n".join(parts)


def _others(run: dict[str, Any]) -> float:
    return float(np.mean([value for name, value in run["AP"].items() if name not in CLASSES_OF_THE_CUE]))


def _mean(values: Any) -> str:
    listed = list(values)
    spread = f" ({min(listed):.1f} to {max(listed):.1f})" if len(listed) > 1 else ""
    return f"{np.mean(listed):.1f}{spread}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
