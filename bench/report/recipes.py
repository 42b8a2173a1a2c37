"""What a recipe trains: epochs, steps, seconds of video, measured hours, and what differs from its source."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.config.overrides import override
from bench.config.presets import STANDARD
from bench.config.protocol import Protocol
from bench.io.tables import markdown
from bench.records.record import Record
from bench.report.grouping import longer_training
from datasets.recipes.recipes import Recipe, known_recipes, read_recipe

STEPS_FIELDS = {"steps", "epochs", "schedule_length", "warmup"}
"""Fields of which the seconds of a step do not depend."""


@dataclass(frozen=True)
class TrainingVideos:
    """The training videos of a data set; None for what is not known."""

    count: int | None = None
    seconds: float | None = None
    """Their total length."""


def recipe_protocol(recipe: Recipe) -> Protocol:
    """Return the protocol of a recipe on a GPU; ``steps`` is 0."""
    return override(STANDARD, recipe.changes())


def window_seconds(protocol: Protocol) -> float:
    """Return the length of a window of a protocol with its own number of frames per clip."""
    frames = protocol.clip_frames or 0
    between = (protocol.window_clips - 1) * (protocol.clip_stride or frames)
    return (between + frames) / protocol.frames_per_second


def recipe_report(
    recipe: Recipe, videos: TrainingVideos, records: Sequence[Record], model: str = ""
) -> dict[str, Any]:
    """Return a recipe, and what it trains on some videos, as JSON values.

    ``seconds_of_video`` is an upper limit where windows slide: windows of short videos are shorter. Hours
    are those of runs with this recipe in ``records``, of one model if it is given.
    """
    protocol = recipe_protocol(recipe)
    steps = per_epoch = seen = None
    if videos.count:
        per_epoch = protocol.steps_per_epoch(videos.count)
        steps = protocol.with_steps(videos.count).steps
        whole = protocol.resampling == "fixed"
        lengths = [videos.seconds / videos.count] if videos.seconds else []
        lengths += [] if whole else [window_seconds(protocol)]
        seen = steps * protocol.batch_size * min(lengths) if lengths else None
    return {
        "name": recipe.name,
        "title": recipe.title,
        "models": list(recipe.models),
        "epochs": recipe.epochs.value,
        "schedule_epochs": recipe.schedule_epochs.value,
        "warmup_epochs": recipe.warmup_epochs.value,
        "source_epochs": recipe.source_epochs,
        "videos": videos.count,
        "steps_per_epoch": per_epoch,
        "steps": steps,
        "seconds_of_video": seen,
        "hours": _hours(recipe, records, steps, model),
        "protocol": {name: [value.value, value.source] for name, value in recipe.protocol.items()},
        "with_classifier": {
            name: [value.value, value.source] for name, value in recipe.with_classifier.items()
        },
        "strategies": {name: [value.value, value.source] for name, value in recipe.strategies.items()},
        "differs": list(recipe.differs),
        "published": [[each.model, each.result, each.source] for each in recipe.published],
    }


def _hours(
    recipe: Recipe, records: Sequence[Record], steps: int | None, model: str
) -> list[tuple[str, str, str, float, float | None]]:
    """Return model, strategy, device, median seconds per step and hours of this recipe's runs.

    Hours are of all steps of a strategy, those that it adds to the protocol's too.
    """
    groups: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for record in records:
        own = record.get("recipe") or {}
        seconds = (record["cost"] or {}).get("seconds_per_step")
        alike = own.get("name") == recipe.name and set(own.get("changed", ())) <= STEPS_FIELDS
        if alike and seconds and model in ("", record["model"]):
            device = str(record["environment"].get("device", "unknown"))
            key = (record["model"], record["strategy"]["name"], device)
            longer = longer_training(record)
            times = longer / record["protocol"]["steps"] if longer else 1.0
            groups.setdefault(key, []).append((seconds, times))
    found = []
    for key, values in sorted(groups.items()):
        median, times = (statistics.median(column) for column in zip(*values, strict=True))
        found.append((*key, median, steps * times * median / 3600 if steps else None))
    return found


def recipe_lines(report: dict[str, Any]) -> list[str]:
    """Return the report of a recipe as lines of text."""
    name, steps = report["name"], report["steps"]
    schedule = f"{report['epochs']:g} epochs of a schedule of {report['schedule_epochs']:g}"
    own = report["source_epochs"]
    lines = [
        f"recipe {name}: {report['title']}; for {', '.join(report['models'])}",
        f"  {schedule}, warmup {report['warmup_epochs']:g}; "
        f"the source trains {'epochs not stated' if own is None else f'{own:g}'}",
    ]
    if steps is None:
        lines.append("  steps: not known without annotations")
    else:
        lines.append(
            f"  {report['videos']} videos: {report['steps_per_epoch']} steps per epoch, {steps} steps"
        )
        seen = report["seconds_of_video"]
        text = f"at most {seen:,.0f} s" if seen is not None else "not known without annotations"
        lines.append(f"  video seen in training: {text}")
    for model, strategy, device, seconds, hours in report["hours"]:
        shown = "" if hours is None else f", {hours:.1f} h"
        lines.append(f"  {model}, {strategy}, {device}: {seconds:.3f} s per step{shown}")
    if not report["hours"]:
        lines.append("  hours: no record has measured seconds per step of this recipe")
    for title, table in (
        ("protocol", "protocol"),
        ("with an external classifier", "with_classifier"),
        ("factors of the learning rate", "strategies"),
    ):
        lines += _by_file(title, report[table])
    lines += ["differs from the source:", *(f"  {text}" for text in report["differs"])]
    if report["published"]:
        lines.append("published:")
        lines += [f"  {model}: {result} ({source})" for model, result, source in report["published"]]
    return lines


def _by_file(title: str, table: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return lines of values, under the files that they come from."""
    files: dict[str, list[str]] = {}
    for name, (value, source) in table.items():
        if isinstance(value, dict):
            value = ", ".join(f"{each} for {pattern}" for pattern, each in value.items())
        file, _, where = source.partition(": ")
        files.setdefault(file, []).append(f"  {name} = {value}  ({where})")
    return [line for file, found in files.items() for line in (f"{title}, {file}:", *found)]


def recipes_table() -> str:
    """Return the table of all recipes in markdown."""
    lines = []
    for name in known_recipes():
        recipe = read_recipe(name)
        protocol = recipe_protocol(recipe)
        whole = protocol.resampling == "fixed"
        window = "whole video" if whole else f"{window_seconds(protocol):.1f} s"
        # Features of a video that are resized to the window have no frames of their own.
        clips = f"{protocol.window_clips}" + (f" × {protocol.clip_frames}" if protocol.clip_frames else "")
        clips += f" at stride {protocol.clip_stride}" if protocol.clip_stride else ""
        size = "" if "image_size" not in recipe.protocol else str(protocol.image_size)
        schedule = f"{recipe.epochs.text} of {recipe.schedule_epochs.text}"
        models = ", ".join(recipe.models)
        rate = f"{protocol.learning_rate:g}"
        lines.append([name, models, clips, window, size, str(protocol.batch_size), schedule, rate])
    titles = ["recipe", "default of", "clips × frames", "window", "pixels", "batch", "epochs", "rate"]
    return markdown(titles, lines, text_columns=4)
