"""``python -m bench.doctor``: check annotations and videos before anything is computed from them.

Reads every annotation and opens every video, and reports the version of the ground truth, the problems found
and a suitable window. Without ``--data``, only the annotations are checked. The exit code is 0 without
problems, 1 with warnings, 2 with errors.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.config.arguments import pairs, real, whole
from bench.io.errors import InputError
from bench.io.exit_code import CommandParser, run_command
from bench.io.text import printable

SHOWN = 5
rate = real(lambda value: 0 < value <= 1000, "a number of frames per second, up to 1000")


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    result = CommandParser(prog="python -m bench.doctor", description=__doc__)
    add = result.add_argument
    add("annotations", type=Path, nargs="?", help="annotations in any known format (default: in --data)")
    add("--data", type=Path, help="folder with the videos, at any depth")
    add("--features", action="store_true", help="--data holds features for bench.run --model features")
    add("--card", help="the known data set to compare with, such as thumos14:211")
    add("--recipe", metavar="NAME", help="print a recipe, as adatad or thumos14:adatad, and what it trains")
    add("--model", default="", help="with --recipe: hours of this backbone's runs only")
    add("--results", type=Path, help="with --recipe: records of measured seconds (default: as shipped)")
    add(
        "--protocol",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="the protocol fields of the run that follows: its subsets are checked",
    )
    add("--convert", type=Path, metavar="OUT.json", help="write the annotations as ActivityNet's JSON first")
    add("--fps", type=rate, help="with --convert: frames per second of annotations in frame numbers")
    add("--subset", help="with --convert: subset of the videos of a file without subsets")
    add("--tiers", help="with --convert: tiers (ELAN), attributes (VIA) or controls (Label Studio) to read")
    add("--every-frame", action="store_true", help="decode every frame (default: the first and the last)")
    add("--workers", type=whole(1), default=os.cpu_count() or 1, help="processes that open videos")
    add("--cache", type=Path, help="file of cached check results (default: below $TALBENCH_CACHE)")
    add("--plot", type=Path, help="draw lengths of videos and instances (.png, .pdf or .svg)")
    add("--json", metavar="FILE", help="write the report as JSON; '-' prints only the JSON")
    add(
        "--write-missing",
        type=Path,
        metavar="FILE",
        help="write the ids of videos without a usable file to this file",
    )
    return result


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report as lines of text."""
    text = _examined_lines(report) if "subsets" in report else []
    if "recipe" in report:
        from bench.report.recipes import recipe_lines

        text += recipe_lines(report["recipe"])
    return text


def _examined_lines(report: Mapping[str, Any]) -> list[str]:
    text = []
    for subset, numbers in report["subsets"].items():
        text.append(
            f"{subset}: {numbers['videos']} videos ({numbers['videos_without_instances']} without "
            f"instances), {numbers['instances']} instances of {len(numbers['classes'])} classes"
        )
        for what in ("video", "instance"):
            if numbers[f"{what}_seconds"]:
                shown = ", ".join(f"{q} % {value:g}" for q, value in numbers[f"{what}_seconds"].items())
                text.append(f"  {what} lengths in seconds: {shown}")
    if report["files"]["opened"]:
        rates = ", ".join(f"{count} at {rate}" for rate, count in report["files"]["rates"].items())
        text.append(f"{report['files']['opened']} video files opened; frames per second: {rates or 'none'}")
    groups: dict[tuple[str, str], list[str]] = {}
    for finding in report["findings"]:
        line = " ".join(f"{finding['video']} {finding['text']}".split())
        groups.setdefault((finding["level"], finding["kind"]), []).append(line)
    for level in ("note", "warning", "error"):
        for (own, kind), found in groups.items():
            if own == level:
                text.append(f"{level}: {kind}" + (f" ({len(found)})" if len(found) > 1 else ""))
                text += [f"  {line}" for line in found[:SHOWN]]
                text += [f"  and {len(found) - SHOWN} more: --json lists all"] if len(found) > SHOWN else []
    if proposal := report["proposal"]:
        window, stride = proposal["window_seconds"], proposal["stride_seconds"]
        whole, resolved = (f"{100 * proposal[share]:.1f} %" for share in ("fitting", "resolved"))
        text += [
            f"proposal: windows of {window:.1f} s every {stride:.1f} s hold {whole} of the instances whole",
            f"  at {proposal['frames_per_second']:g} frames per second {resolved} span four steps",
            f"  regression ranges in steps: {proposal['regression_steps']}",
            f'  PROTOCOL="{proposal["protocol"]}"',
        ]
    return text


def draw(report: Mapping[str, Any], path: Path) -> bytes:
    """Return a figure of instance and video lengths by subset, in the format of the path's suffix."""
    import io

    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "pdf", "svg"):
        raise InputError(f"--plot: got {path}, allowed are names ending in .png, .pdf and .svg")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from bench.report.figures.fonts import draw_with_fonts

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for panel, what in zip(panels, ("instance", "video"), strict=True):
        for subset, numbers in report["subsets"].items():
            values = numbers[f"{what}_seconds"]
            shares = [float(q) for q in values]
            panel.plot(list(values.values()), shares, marker=".", label=f"{subset} ({numbers[f'{what}s']})")
        panel.set(xscale="symlog", xlabel=f"{what} length (s)", ylabel="share no longer (%)")
        panel.grid(alpha=0.3)
        if report["subsets"]:
            panel.legend()

    def render() -> bytes:
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=150)
        return content.getvalue()

    drawn = draw_with_fonts(figure, render)
    pyplot.close(figure)
    return drawn


def subsets_of(card: str, changes: Mapping[str, str]) -> tuple[str, str]:
    """Return the training and evaluation subset of a run on a known data set, or on own data."""
    from bench.config.overrides import override
    from bench.config.presets import default_protocol
    from datasets.cards.cards import card_protocol

    protocol = override(default_protocol("vit-t", dataset=card), {**card_protocol(card), **changes})
    return protocol.training_subset, protocol.evaluation_subset


def feature_findings(options: argparse.Namespace) -> list[dict[str, str]]:
    """Return what is wrong with the features in ``--data``, as a run on them would say."""
    from bench.config.overrides import check_feature_fields
    from bench.data.feature_times import wrong_files
    from bench.models import FEATURES
    from bench.run.specification import RunSpecification

    if options.data is None:
        raise InputError("--features: the folder of the features is needed as --data")
    annotations = None if options.annotations is None else str(options.annotations)
    spec = RunSpecification(
        model=FEATURES,
        strategy="head-only",
        strategy_settings={},
        dataset=options.card or str(Path(annotations or "").absolute()),
        data=str(options.data),
        cache=None,
        weights=FEATURES,
        seed=0,
        device="cpu",
        protocol_changes=pairs(options.protocol, "--protocol"),
        results="",
        annotations=annotations if options.card else None,
        recipe=options.recipe,
    )
    protocol = spec.protocol()
    check_feature_fields(protocol, FEATURES)
    try:
        texts = list(wrong_files(spec.load_dataset(), protocol))
    except InputError as error:
        texts = [str(error)]
    return [{"level": "error", "kind": "features", "video": "", "text": text} for text in texts]


def recipe_of(options: argparse.Namespace, examined: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the report of the recipe: of the ``examined`` annotations, or of the card's number of videos."""
    from bench.io import PROJECT_ROOT
    from bench.records.record import read_folder
    from bench.report.recipes import TrainingVideos, recipe_report
    from datasets.cards.cards import read_card, split_name
    from datasets.recipes.recipes import named_recipe

    recipe = named_recipe(options.recipe, options.card or "")
    name = (examined["card"] or "") if examined else options.card or split_name(recipe.name)[0]
    training = subsets_of(name, pairs(options.protocol, "--protocol"))[0]
    if examined is None:
        videos = TrainingVideos(read_card(name).variant(split_name(name)[1]).videos.get(training))
    else:
        found = examined["subsets"].get(training, {})
        videos = TrainingVideos(found.get("videos"), found.get("total_seconds"))
    records = read_folder((options.results or PROJECT_ROOT / "results") / "records").records
    return recipe_report(recipe, videos, records, options.model)


def converted(options: argparse.Namespace) -> list[str]:
    """Convert the annotations if asked to, so that the result is examined; return lines for the user."""
    if options.convert is None:
        for name in ("fps", "subset", "tiers"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name}: allowed only with --convert OUT.json")
        return []
    if options.annotations is None:
        raise InputError("--convert: the annotations to convert are needed")
    from datasets.annotations.imports.database import ImportOptions
    from datasets.checks.conversion import convert

    tiers = tuple(part.strip() for part in (options.tiers or "").split(",") if part.strip())
    given = ImportOptions(options.fps, options.subset, tiers)
    text = convert(options.annotations, options.convert, given, options.data)
    options.annotations = options.convert
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    return run_command(parser(), arguments, _main)


def _main(options: argparse.Namespace) -> int:
    from bench.io.writing import write_output
    from datasets.checks.examine import examine

    for line in converted(options):
        print(printable(line), file=sys.stderr if options.json == "-" else sys.stdout)
    report: dict[str, Any]
    examined = (options.annotations, options.data, options.plot, options.write_missing)
    if options.recipe and not any(examined):
        report = {"recipe": recipe_of(options, None)}
    else:
        report = examine(options, lambda card: subsets_of(card, pairs(options.protocol, "--protocol")))
        if options.recipe:
            report["recipe"] = recipe_of(options, report)
        if options.features:
            report["findings"] += feature_findings(options)
    content = json.dumps(report, indent=1, allow_nan=False).encode() + b"\n"
    if options.json and options.json != "-":
        write_output("--json", Path(options.json), content)
    if options.write_missing:
        write_output("--write-missing", options.write_missing, "".join(f"{n}\n" for n in report["unusable"]))
    if options.plot:
        write_output("--plot", options.plot, draw(report, options.plot))
    print(content.decode() if options.json == "-" else "\n".join(map(printable, lines(report))))
    levels = {finding["level"] for finding in report.get("findings", ())}
    return 2 if "error" in levels else 1 if "warning" in levels else 0


if __name__ == "__main__":
    sys.exit(main())
