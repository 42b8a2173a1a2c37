"""The examination of a data set by ``bench.doctor``."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.io.errors import InputError

if TYPE_CHECKING:
    from datasets.annotations.dataset import Video
    from datasets.cards.cards import Card, Variant
    from datasets.checks.checking import CheckedFile, Finding
    from datasets.checks.probing import Facts

QUANTILES = (0, 5, 25, 50, 75, 95, 99, 100)


def examine(options: argparse.Namespace) -> dict[str, Any]:
    """Return all findings as JSON values; raise InputError if there is nothing to examine."""
    from datasets.cards.cards import read_card, split_name
    from datasets.checks.checking import Finding, check_annotations, check_videos, with_durations

    card = variant = None
    if options.card:
        card = read_card(options.card)
        if not card.variants:
            raise InputError(f"--card: {card.name} is made on the spot, there is nothing to check")
        variant = card.variant(split_name(options.card)[1])
    if options.data is not None and not options.data.is_dir():
        raise InputError(f"--data: {options.data} is no folder")
    path = _annotations(options, card)
    checked = check_annotations(path, card, variant)
    taken = []
    if card is None and checked.variants:
        # As own data, the file might be refused for faults that the known data set's policy accepts.
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
    from datasets.cards.known import find_annotations

    return find_annotations(card, options.data)


def _wanted(checked: CheckedFile, card: Card | None, variant: Variant | None) -> tuple[Video, ...]:
    """Return the videos that a run would use: of the card's subsets, without the variant's excluded ones."""
    if card is None or variant is None:
        return checked.videos
    out, subsets = {*variant.excluded, *card.excluded}, set(card.subsets.values())
    return tuple(v for v in checked.videos if v.subset in subsets and v.id not in out)


def _files(data: Path, videos: Sequence[Video]) -> tuple[dict[str, Path], list[Finding]]:
    """Return the file of each video that has one, and a finding for each that has none or two."""
    from datasets.cards.known import find_videos, pick_file
    from datasets.checks.checking import Finding

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

    from datasets.checks.probing import probe_files
    from datasets.miniature.config import default_cache_dir

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
    from datasets.checks.window_proposal import propose

    lengths = [i.end - i.start for video in videos for i in video.instances]
    try:
        proposal = propose(lengths, max(rates, key=lambda rate: rates[rate]) if rates else 30.0)
    except InputError:
        return None
    return {**dataclasses.asdict(proposal), "protocol": proposal.protocol}
