"""``python -m bench.plan``: predict the peak memory of training on any machine, and what fits a card.

Every row traces real training steps on tensors without data (``bench.plan.forecast``). Nothing is read,
downloaded or trained.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.config.arguments import real, whole
from bench.config.protocol import MODES
from bench.io.exit_code import CommandParser, run_command
from bench.io.tables import markdown
from bench.memory.constants import CARDS, GIBIBYTE, KINDS, needed_bytes
from bench.models import FEATURES
from bench.plan.fits import max_fitting
from bench.plan.grid import forecast_requests
from bench.plan.pool import forecast_pool, in_order, run_forecasts
from bench.plan.request import ForecastRequest
from datasets.cards.cards import GENERATED
from strategies import STRATEGIES_HELP

CONFIGURATION = ("model", "frames", "image_size")
MAX_FRAMES = 2**16
MAX_PIXELS = 1024


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    result = CommandParser(prog="python -m bench.plan", description=__doc__)
    add = result.add_argument
    add("--model", default="vit-g", help="comma-separated backbones (default: vit-g)")
    add("--strategy", default="default", metavar="NAMES", help=STRATEGIES_HELP)
    add(
        "--dataset",
        choices=GENERATED,
        default="miniature",
        help="whose protocol vit-t has (default: miniature)",
    )
    add("--frames", help="frames of a window, or several with commas (default: the model's protocol)")
    add("--size", help="pixels of a frame's side, or several with commas (default: the model's protocol)")
    add("--batch", type=whole(1), help="windows in a step (default: the model's protocol)")
    add("--precision", choices=("float32", "bfloat16"), help="default: the model's protocol on the device")
    add("--backward", default="all", help=f"{', '.join(MODES)}, or all that make a difference (default)")
    add("--classes", type=whole(1), default=20, help="classes of the data set (default: 20)")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="target device (default: cuda)")
    add(
        "--gpu",
        type=real(lambda value: 1 <= value <= 10000, "1 to 10000 (GiB)"),
        metavar="GIB",
        help="also print what fits a card of this size: the most frames, and the largest frame size",
    )
    add("--set", action="append", default=[], metavar="STRATEGY.FIELD=VALUE", help="as in bench.run")
    add("--recipe", metavar="NAME", help="a recipe's protocol and factors, as thumos14:adatad")
    add("--protocol", action="append", default=[], metavar="FIELD=VALUE", help="as in bench.run")
    add("--json", metavar="FILE", help="write the rows as JSON; '-' is standard output, which then holds it")
    add("--processes", type=whole(1, 1024), default=1, help="processes that share a batch (default: 1)")
    add("--sharded", action="store_true", help="shard trainable blocks over processes (FSDP2)")
    add("--timeline", action="store_true", help="with --json: include the live bytes through a step")
    add("--workers", type=whole(1), default=2, help="forecasts in parallel, 0.8 GB each (default: 2)")
    return result


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a markdown table, in GB of 10^9 bytes."""
    cuda = rows[0]["device"] == "cuda"
    titles = ["strategy", "backward", "predicted peak", *(["reserved"] if cuda else []), *KINDS, "inference"]
    titles += [f"fits {card}" for card in CARDS] if cuda else []
    lines = []
    for row in rows:
        sizes = [row["predicted_peak_bytes"], *([row["predicted_reserved_bytes"]] if cuda else [])]
        sizes += [row["kinds"].get(kind, 0) for kind in KINDS]
        sizes.append(row["inference"]["predicted_peak_bytes"])
        fits = ["yes" if needed_bytes(row) <= size else "no" for size in CARDS.values()] if cuda else []
        lines.append([row["strategy"], row["backward"], *(f"{size / 1e9:.2f}" for size in sizes), *fits])
    return markdown(titles, lines, text_columns=2)


def heading(row: dict[str, Any]) -> str:
    """Return a sentence that describes the table."""
    size = f"{row['image_size']} x {row['image_size']} pixels"
    shown = f"{row['frames']} frames as {row['clips']} clips, {size}"
    if row["model"] == FEATURES:
        shown = f"windows of {row['clips']} clips"
    sentence = (
        "Predicted peak memory of a training step and of inference in GB (10^9 bytes): "
        f"{row['model']}, {shown}, batch {row['batch_size']}, "
        f"{row['precision']}, {row['device']}. Kinds as they are at the peak of training."
    )
    if row["device"] != "cuda":
        return sentence
    return sentence + " A card fits what the allocator reserves and half a GB of context."


def add_what_fits(
    asked: Sequence[ForecastRequest],
    rows: list[dict[str, Any]],
    gib: float,
    pool: concurrent.futures.Executor,
) -> str:
    """Add to every row the most frames and the largest size that fit; return them as a markdown table."""
    limit = int(gib * GIBIBYTE)
    fields = (("window_clips", MAX_FRAMES), ("image_size", MAX_PIXELS))
    searches = [
        pool.submit(max_fitting, question, field, limit, most) for question in asked for field, most in fields
    ]
    found = in_order(searches, "searches")
    lines = []
    for row, clips, pixels in zip(rows, found[::2], found[1::2], strict=True):
        frames = clips * row["frames"] // row["clips"] if clips else None
        row["fits"] = {"gib": gib, "frames": frames, "image_size": pixels}
        words = [
            "none" if value is None else f"{value} or more" if value > 0.98 * most else str(value)
            for value, (_, most) in zip((frames, pixels), fields, strict=True)
        ]
        given = [f"{row['frames']} x {row['image_size']}"]
        lines.append([row["model"], row["strategy"], row["backward"], *given, *words])
    titles = ["model", "strategy", "backward", "frames x size", "most frames at this size"]
    return markdown([*titles, "largest size at these frames"], lines, text_columns=4)


def plan(options: argparse.Namespace) -> int:
    """Print the table and, with ``--gpu``, what fits a card; return the exit code."""
    with forecast_pool(options.workers) as pool:
        asked = pool.submit(forecast_requests, options).result()
        rows = run_forecasts(asked, pool)
        texts = []
        for _, group in itertools.groupby(rows, lambda row: [row[name] for name in CONFIGURATION]):
            alike = list(group)
            texts += [heading(alike[0]), table(alike)]
        if options.gpu is not None:
            fitting = add_what_fits(asked, rows, options.gpu, pool)
            texts += [f"What a card of {options.gpu:g} GiB can run:", fitting]
    text = json.dumps(rows, indent=1, allow_nan=False)
    if options.json == "-":
        print(text)
        return 0
    if options.json:
        from bench.io.writing import write_output

        write_output("--json", Path(options.json), text)
    print("\n\n".join(texts))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    return run_command(parser(), arguments, plan)


if __name__ == "__main__":
    sys.exit(main())
