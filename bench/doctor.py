"""``python -m bench.doctor``: check annotations and videos before anything is computed from them.

Reads every annotation and opens every video, says which ground truth it is, what is wrong, and what window
would fit. Without ``--data`` it looks at the annotations alone. The exit code is 0 if all is well, 1 with
warnings, 2 with errors.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.io.errors import InputError
from bench.io.exit_code import exit_code
from bench.io.text import printable

if TYPE_CHECKING:
    from datasets.cards import Card, Variant
    from datasets.checking import CheckedFile, Finding
    from datasets.dataset import Video
    from datasets.probing import Facts

SHOWN = 5
QUANTILES = (0, 5, 25, 50, 75, 95, 99, 100)


def parser() -> argparse.ArgumentParser:
    """Return the verb's options."""
    result = argparse.ArgumentParser(prog="python -m bench.doctor", description=__doc__)
    add = result.add_argument
    add("annotations", type=Path, nargs="?", help="JSON file or folder of text files (default: in --data)")
    add("--data", type=Path, help="folder with the videos, at any depth")
    add("--card", help="the known data set that it should be, such as thumos14:211")
    add("--every-frame", action="store_true", help="decode every frame (default: the first and the last)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes that open videos")
    add("--cache", type=Path, help="what is known of files already (default: below $TALBENCH_CACHE)")
    add("--plot", type=Path, help="draw lengths of videos and instances there (.png, .pdf or .svg)")
    add("--json", metavar="FILE", help="write all of it as JSON; '-' prints it and nothing else")
    add(
        "--write-missing",
        type=Path,
        metavar="FILE",
        help="list the ids of videos without a usable file there",
    )
    return result


def examine(options: argparse.Namespace) -> dict[str, Any]:
    """Return everything that was found, as JSON values; raise InputError if there is nothing to look at."""
    from datasets.cards import read_card, split_name
    from datasets.checking import Finding, check_annotations, check_videos, with_durations

    card = variant = None
    if options.card:
        card = read_card(options.card)
        if not card.variants:
            raise InputError(f"--card: {card.name} is made on the spot, there is nothing to check")
        variant = card.variant(split_name(options.card)[1])
    if options.workers < 1:
        raise InputError(f"--workers: got {options.workers}, allowed is 1 or more")
    if options.data is not None and not options.data.is_dir():
        raise InputError(f"--data: {options.data} is no folder")
    path = _annotations(options, card)
    checked = check_annotations(path, card, variant)
    taken = []
    if card is None and checked.variants:
        # As own data it might be refused for what its users know and keep.
        name = checked.variants[0]
        card, variant = read_card(name), read_card(name).variant(split_name(name)[1])
        checked = check_annotations(path, card, variant)
        text = f"taken as {name}: run it under this name, with the file as --annotations"
        taken.append(Finding("note", "known data set", "", text))
    videos = _wanted(checked, card, variant)
    ours = {"", *(video.id for video in videos)}
    findings = [*taken, *(each for each in checked.findings if each.video in ours or each.kind == "entry")]
    facts: dict[str, Facts] = {}
    unusable: list[str] = []
    if options.data is not None:
        files, lost = _files(options.data, videos)
        findings += lost
        facts = _probe(files, options)
        videos = with_durations(videos, facts)
        findings += check_videos({v.id: v for v in videos if v.id in facts}, facts, card)
        unusable = [v.id for v in videos if "error" in facts.get(v.id, {"error": "missing"})]
    if not videos:
        findings.append(Finding("error", "nothing", "", "no video can be read from the annotations"))
    opened = [fact for fact in facts.values() if "error" not in fact]
    rates = Counter(round(float(fact["frames_per_second"]), 2) for fact in opened)
    return {
        "annotations": {"kind": checked.kind, "sha256": checked.sha256, "variants": list(checked.variants)},
        "card": f"{card.name}:{variant.name}" if card and variant else None,
        "subsets": {subset: statistics(videos, subset) for subset in sorted({v.subset for v in videos})},
        "files": {"opened": len(facts), "rates": {f"{rate:g}": n for rate, n in sorted(rates.items())}},
        "readers": dict(Counter(str(fact["reader"]) for fact in opened)),
        "unusable": unusable,
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "proposal": _proposal(videos, rates),
    }


def _annotations(options: argparse.Namespace, card: Card | None) -> Path:
    if options.annotations is not None:
        return Path(options.annotations)
    if card is None or options.data is None:
        raise InputError("annotations: a file is needed, or --card and --data to look for it")
    from datasets.known import find_annotations

    return find_annotations(card, options.data)


def _wanted(checked: CheckedFile, card: Card | None, variant: Variant | None) -> tuple[Video, ...]:
    """Return the videos that a run would use: of a card's subsets, without those its variant leaves out."""
    if card is None or variant is None:
        return checked.videos
    out, subsets = {*variant.excluded, *card.excluded}, set(card.subsets.values())
    return tuple(v for v in checked.videos if v.subset in subsets and v.id not in out)


def _files(data: Path, videos: Sequence[Video]) -> tuple[dict[str, Path], list[Finding]]:
    """Return the file of each video that has one, and a finding for each that has none or two."""
    from datasets.checking import Finding
    from datasets.known import find_videos, pick_file

    found, files, findings = find_videos(data), {}, []
    for video in videos:
        try:
            name = video.file or pick_file(data, video.id, found)
        except InputError as error:
            findings.append(Finding("error", "two files", video.id, str(error)))
            continue
        if name is None or not (data / name).is_file():
            findings.append(Finding("error", "missing", video.id, "no file"))
        else:
            files[video.id] = data / name
    return files, findings


def _probe(files: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Facts]:
    from tqdm import tqdm

    from datasets.miniature.config import default_cache_dir
    from datasets.probing import probe_files

    cache = options.cache
    if cache is None:
        digest = hashlib.sha256(str(options.data.absolute()).encode(errors="replace")).hexdigest()[:12]
        cache = default_cache_dir() / "doctor" / f"{digest}.jsonl"
    quiet = not sys.stderr.isatty()
    with tqdm(total=len(files), desc="opening videos", leave=False, disable=quiet) as bar:
        return probe_files(
            files, cache, options.workers, every_frame=options.every_frame, progress=lambda: bar.update()
        )


def statistics(videos: Sequence[Video], subset: str) -> dict[str, Any]:
    """Return counts of a subset and quantiles of its lengths in seconds."""
    import numpy as np

    chosen = [video for video in videos if video.subset == subset]
    lengths = [i.end - i.start for video in chosen for i in video.instances]
    durations = [video.duration for video in chosen if np.isfinite(video.duration)]

    def quantiles(values: Sequence[float]) -> dict[str, float]:
        found = np.percentile(values, QUANTILES).tolist() if values else []
        return {f"{q}": round(value, 3) for q, value in zip(QUANTILES, found, strict=False)}

    return {
        "videos": len(chosen),
        "videos_without_instances": sum(not video.instances for video in chosen),
        "instances": len(lengths),
        "classes": dict(sorted(Counter(i.label for video in chosen for i in video.instances).items())),
        "video_seconds": quantiles(durations),
        "instance_seconds": quantiles(lengths),
    }


def _proposal(videos: Sequence[Video], rates: Mapping[float, int]) -> dict[str, Any] | None:
    from datasets.proposal import propose

    lengths = [i.end - i.start for video in videos for i in video.instances]
    try:
        proposal = propose(lengths, max(rates, key=lambda rate: rates[rate]) if rates else 30.0)
    except InputError:
        return None
    return {**dataclasses.asdict(proposal), "protocol": proposal.protocol}


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report for a reader."""
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
    """Return a picture of instance and video lengths by subset, in the format of the path's suffix."""
    import io

    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "pdf", "svg"):
        raise InputError(f"--plot: got {path}, allowed are names ending in .png, .pdf and .svg")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

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
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=150)
    pyplot.close(figure)
    return content.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verb."""
    options = parser().parse_args(arguments)
    return exit_code("bench.doctor", lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    from bench.io.writing import write_atomically

    report = examine(options)
    content = json.dumps(report, indent=1, allow_nan=False).encode() + b"\n"
    outputs = []
    if options.json and options.json != "-":
        outputs.append((Path(options.json), content))
    if options.write_missing:
        outputs.append((options.write_missing, "".join(f"{name}\n" for name in report["unusable"]).encode()))
    if options.plot:
        outputs.append((options.plot, draw(report, options.plot)))
    for path, written in outputs:
        try:
            write_atomically(path, written)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    print(content.decode() if options.json == "-" else "\n".join(map(printable, lines(report))))
    levels = {finding["level"] for finding in report["findings"]}
    return 2 if "error" in levels else 1 if "warning" in levels else 0


if __name__ == "__main__":
    sys.exit(main())
