"""The examination of a data set by ``bench.doctor``."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.io.errors import InputError

if TYPE_CHECKING:
    from datasets.annotations.dataset import Video
    from datasets.annotations.durations import Source
    from datasets.annotations.files import VideoFolder
    from datasets.annotations.formats import VideoFacts
    from datasets.cards.cards import Card, Variant
    from datasets.checks.checking import CheckedFile, Finding
    from datasets.checks.probing import Facts

QUANTILES = (0, 5, 25, 50, 75, 95, 99, 100)


def examine(options: argparse.Namespace, subsets_of: Callable[[str], tuple[str, str]]) -> dict[str, Any]:
    """Return all findings as JSON values; raise InputError if there is nothing to examine.

    `subsets_of` returns the training and evaluation subset of a run, given a card's name, or of own data
    given an empty name.
    """
    from datasets.annotations.files import VideoFolder
    from datasets.cards.cards import read_card, split_name
    from datasets.checks.checking import Finding, check_annotations
    from datasets.checks.subsets import check_subsets
    from datasets.checks.videos import annotated_rates, check_same_files, check_videos, find_files

    card = variant = None
    if options.card:
        card = read_card(options.card)
        if not card.variants:
            raise InputError(f"--card: {card.name} is made on the spot, there is nothing to check")
        variant = card.variant(split_name(options.card)[1])
    if options.data is not None and not options.data.is_dir():
        raise InputError(f"--data: {options.data} is no folder")
    path = _annotations(options, card)
    folder = None if options.data is None else VideoFolder(options.data)
    prober = Prober(options, folder)
    checked = check_annotations(path, card, variant, prober.measure)
    taken = []
    if card is None and checked.variants:
        # As own data, the file might be refused for faults that the known data set's policy accepts.
        name = checked.variants[0]
        card, variant = read_card(name), read_card(name).variant(split_name(name)[1])
        checked = check_annotations(path, card, variant, prober.measure)
        text = f"taken as {name}: run it under this name, with the file as --annotations"
        taken.append(Finding("note", "known data set", "", text))
    videos, absent = _wanted(checked, card, variant, options.data)
    taken += absent
    ours = {"", *(video.id for video in videos)}
    findings = [*taken, *(each for each in checked.findings if each.video in ours or each.kind == "entry")]
    facts: dict[str, Facts] = {}
    unusable: list[str] = []
    used = subsets_of(card.name if card else "")
    if folder is not None:
        files, lost = find_files(folder, videos)
        facts = prober.facts(files, annotated_rates(videos))
        lost += check_videos({v.id: v for v in videos if v.id in facts}, facts, card)
        findings += lost if card else _eased(lost, videos, used)
        findings += check_same_files(files, videos, *used)
        unusable = [v.id for v in videos if "error" in facts.get(v.id, {"error": "missing"})]
    else:
        findings.append(Finding("note", "no video opened", "", _unopened(path, card)))
    if videos:
        findings += check_subsets(path.name, videos, *used)
    else:
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


class Prober:
    """Probes the files of a folder once, for durations and for checks; `folder` is None without `--data`."""

    def __init__(self, options: argparse.Namespace, folder: VideoFolder | None) -> None:
        self.options = options
        self.folder = folder
        self.known: dict[Path, Facts] = {}

    def facts(self, files: Mapping[str, Path], rates: Mapping[str, float]) -> dict[str, Facts]:
        """Return the facts of files by video; `rates` are those of folders of images."""
        from datasets.checks.probing import Probing, facts_file, probe_shown

        options = self.options
        new = {str(path): path for path in files.values() if path not in self.known}
        if new:
            cache = options.cache or facts_file(options.data)
            by_path = {str(files[video]): rate for video, rate in rates.items() if video in files}
            how = Probing(by_path, every_frame=options.every_frame)
            found = probe_shown(new, cache, options.workers, how)
            self.known |= {Path(path): facts for path, facts in found.items()}
        return {video: self.known[path] for video, path in files.items()}

    def measure(self, videos: Mapping[str, Source]) -> dict[str, VideoFacts]:
        """Return the facts of videos whose files can be read."""
        from datasets.annotations.durations import rates_of, safe_files, video_facts

        if self.folder is None:
            return {}
        files = safe_files(self.folder, videos, lambda error: None)
        known = self.facts(files, rates_of(videos))
        return {video: video_facts(facts) for video, facts in known.items() if "error" not in facts}


def _eased(found: Sequence[Finding], videos: Sequence[Video], used: Collection[str]) -> list[Finding]:
    """Return the findings on files; errors in subsets that a run does not use are warnings.

    A run reads every duration, so a file that is needed for it must be readable in all subsets. All subsets
    count if those of a run do not exist: others are then meant.
    """
    unused = {v.id: v.subset for v in videos if v.subset not in used and math.isfinite(v.duration)}
    if not {video.subset for video in videos} >= set(used):
        return list(found)
    return [
        dataclasses.replace(
            each,
            level="warning",
            text=f"{each.text} (of subset {unused[each.video]}, which the run does not use)",
        )
        if each.level == "error" and each.video in unused
        else each
        for each in found
    ]


def _unopened(path: Path, card: Card | None) -> str:
    """Return the note of a doctor without the folder of the videos."""
    from datasets.annotations.reader import default_root

    if card is not None:
        return "only the annotations were checked; --data names the folder of the videos, which a run needs"
    return f"only the annotations were checked; a run without --data takes the videos in {default_root(path)}"


def _annotations(options: argparse.Namespace, card: Card | None) -> Path:
    if options.annotations is not None:
        return Path(options.annotations)
    if card is None or options.data is None:
        raise InputError("annotations: a file is needed, or --card and --data to look for it")
    from datasets.cards.known import find_annotations

    return find_annotations(card, options.data)


def _wanted(
    checked: CheckedFile, card: Card | None, variant: Variant | None, data: Path | None
) -> tuple[tuple[Video, ...], list[Finding]]:
    """Return the videos that a run would use, and a note on those that the user declared missing.

    Of a known data set these are the videos of the card's subsets, without the variant's excluded ones.
    """
    from datasets.cards.known import MISSING_LIST, read_missing
    from datasets.checks.checking import Finding

    if card is None or variant is None:
        return checked.videos, []
    out, subsets = {*variant.excluded, *card.excluded}, set(card.subsets.values())
    videos = tuple(v for v in checked.videos if v.subset in subsets and v.id not in out)
    if data is None:
        return videos, []
    ids = [*(video.id for video in videos), *card.unannotated]
    absent = read_missing(data / MISSING_LIST, ids, f"{card.name}:{variant.name}")
    text = f"{len(absent)} videos are listed in {MISSING_LIST}: left out"
    note = [Finding("note", "declared missing", "", text)] if absent else []
    return tuple(video for video in videos if video.id not in absent), note


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
        "total_seconds": round(sum(durations), 3),
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
