"""Find all errors in an annotation file and its videos, not only the first one."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench.io.errors import InputError
from datasets.annotations.dataset import SegmentPolicy, Video
from datasets.annotations.entries import END_TOLERANCE_SECONDS, AnnotationRules, EntryReader, is_duplicate
from datasets.annotations.formats import AnnotationFile, VideoFacts, read_facts, read_file
from datasets.cards.cards import Card, Variant, known_datasets, read_card
from datasets.cards.known import check_known, read_card_file
from datasets.checks.probing import Facts
from datasets.video.frames import VideoInfo, probe

Level = Literal["note", "warning", "error"]
KEEP_ALL = SegmentPolicy("keep", "keep", "keep")
RATE_TOLERANCE = 0.01
OFFSET_SECONDS = 0.1


@dataclass(frozen=True)
class Finding:
    """A finding about a data set: level, kind, video (may be empty) and text."""

    level: Level
    kind: str
    video: str
    text: str


@dataclass(frozen=True)
class CheckedFile:
    """The readable videos of an annotation file, the findings, and the known variants that it contains."""

    videos: tuple[Video, ...]
    findings: tuple[Finding, ...]
    variants: tuple[str, ...]
    kind: str
    sha256: str


def check_annotations(path: Path, card: Card | None = None, variant: Variant | None = None) -> CheckedFile:
    """Return all findings in an annotation file, with or without a card; `InputError` if unreadable.

    A video whose duration is neither in the file nor in a table has an infinite duration here.
    """
    file, facts = read_card_file(card, path) if card else (read_file(path), read_facts(path))
    reader = EntryReader(file.name, AnnotationRules(policy=KEEP_ALL, ignored=card.ignored if card else ()))
    findings: list[Finding] = []
    videos: list[Video] = []
    unknown = Counter[str]()
    for key, entry in reader.database(file.database).items():
        reader.facts = {key: facts.get(key, VideoFacts(math.inf))}
        try:
            video = reader.video(key, entry)
        except InputError as error:
            findings.append(Finding("error", "entry", key[:80], str(error)))
            continue
        if math.isinf(video.duration):
            unknown[video.subset] += 1
        videos.append(video)
        findings += _segments(video, card, variant)
    for subset, count in unknown.items():
        text = f"{count} videos of {subset} have no duration in the file or in a table beside it"
        findings.append(Finding("note", "duration unknown", "", text))
    findings += _overlapping([video.id for video in videos])
    if reader.repairs.ignored:
        text = f"{reader.repairs.ignored} instances of {', '.join(reader.ignored)} are left out"
        findings.append(Finding("note", "ignored label", "", text))
    variants = recognise(path, file, card)
    findings += _recognised(path, card, variant, variants)
    return CheckedFile(tuple(videos), tuple(findings), variants, file.kind, file.sha256)


def _segments(video: Video, card: Card | None, variant: Variant | None) -> list[Finding]:
    """Return findings on wrong segments: errors if reading would refuse them, notes if a policy applies."""
    policy = variant.policy if variant else SegmentPolicy()
    found = []

    def add(kind: str, treatment: str, text: str, otherwise: Level) -> None:
        level: Level = "note" if variant else "error" if treatment == "refuse" else otherwise
        done = {"keep": "kept", "drop": "left out", "refuse": "refused"}[treatment]
        found.append(Finding(level, kind, video.id, f"{text}: {done}"))

    for number, instance in enumerate(video.instances):
        span = f"{instance.label} [{instance.start:g}, {instance.end:g}]"
        outside = instance.start >= video.duration or instance.end > video.duration + END_TOLERANCE_SECONDS
        if not instance.start < instance.end:
            add("empty segment", policy.empty, span, "warning")
        elif instance.start < 0 or outside:
            add("segment outside", policy.outside, f"{span} in {video.duration:g} s", "warning")
        if is_duplicate(instance, list(video.instances[max(0, number - 50) : number])):
            add("duplicate segment", policy.duplicates, span, "warning")
        if card and card.classes and instance.label not in card.classes:
            found.append(Finding("error", "unknown label", video.id, f"{span}: no class of {card.name}"))
    spans = {(i.label, round(i.start, 1), round(i.end, 1)) for i in video.instances}
    for label, start, end in sorted(spans):
        other = card.implied.get(label) if card else None
        if other and (other, start, end) not in spans:
            text = f"{label} [{start:g}, {end:g}] is not also a {other}: another version of the annotations"
            found.append(Finding("warning", "implied class", video.id, text))
    return found


def _overlapping(ids: list[str]) -> list[Finding]:
    """Return findings on ids that differ only in case or prefix `v_`: on some disks they are one file."""
    first: dict[str, str] = {}
    found = []
    for name in ids:
        other = first.setdefault(name.removeprefix("v_").casefold(), name)
        if other != name:
            found.append(Finding("warning", "ids alike", name, f"is {other} but for case or prefix"))
    return found


def recognise(path: Path, file: AnnotationFile, card: Card | None = None) -> tuple[str, ...]:
    """Return the variants, as `thumos14:211`, whose videos and instances the file contains."""
    found = []
    for each in [card] if card else [read_card(name) for name in known_datasets()]:
        subsets = Counter(
            each.aliases.get(entry["subset"], entry["subset"])
            for entry in file.database.values()
            if isinstance(entry, dict) and isinstance(entry.get("subset"), str)
        )
        for variant in each.variants:
            # Cheap test first: no fewer videos, and at most the variant's excluded ones in addition.
            near = all(
                count - len(each.unannotated) <= subsets[subset] <= count + len(variant.excluded)
                for subset, count in variant.videos.items()
            )
            if not variant.videos or not near:
                continue
            unlisted = each.unannotated

            def endless(ids: Sequence[str], unlisted: Collection[str] = unlisted) -> dict[str, VideoFacts]:
                return {name: VideoFacts(math.inf) for name in ids if name not in unlisted}

            try:
                check_known(each, variant, path, endless)
            except InputError:
                continue
            found.append(f"{each.name}:{variant.name}")
    return tuple(found)


def _recognised(
    path: Path, card: Card | None, variant: Variant | None, variants: tuple[str, ...]
) -> list[Finding]:
    found = []
    if variants:
        found.append(Finding("note", "ground truth", "", f"can be read as {', '.join(variants)}"))
    if card is None or variant is None or f"{card.name}:{variant.name}" in variants:
        return found
    if not variant.videos:
        text = f"{card.name}:{variant.name} has no counts to compare with"
        return [*found, Finding("note", "ground truth", "", text)]
    try:
        check_known(card, variant, path)
    except InputError as error:
        found.append(Finding("error", "ground truth", "", str(error)))
    return found


def check_videos(videos: Mapping[str, Video], facts: Mapping[str, Facts], card: Card | None) -> list[Finding]:
    """Return findings on video files, alone and compared with annotations and card."""
    found = []
    for name, video in videos.items():
        for level, kind, text in _file(video, facts[name], card):
            found.append(Finding(level, kind, name, text))
    return found


def with_durations(videos: tuple[Video, ...], facts: Mapping[str, Facts]) -> tuple[Video, ...]:
    """Return the videos, with the durations of their files if no other source has them."""
    return tuple(
        replace(video, duration=float(facts[video.id]["duration"]))
        if math.isinf(video.duration) and "duration" in facts.get(video.id, {})
        else video
        for video in videos
    )


def _file(video: Video, facts: Facts, card: Card | None) -> list[tuple[Level, str, str]]:
    if "error" in facts:
        return [("error", "undecodable", str(facts["error"]))]
    found: list[tuple[Level, str, str]] = []
    duration, rate, frames = (float(facts[key]) for key in ("duration", "frames_per_second", "frames"))
    annotated = video.duration
    if math.isfinite(annotated) and abs(duration - annotated) > max(1.0, 0.02 * annotated):
        kind = "shorter than annotated" if duration < annotated else "longer than annotated"
        found.append(("warning", kind, f"{duration:.2f} s in the file, {annotated:.2f} s in the annotations"))
    # Instances past the annotated end were found before.
    late = [i for i in video.instances if duration + END_TOLERANCE_SECONDS < i.end <= annotated + 1]
    if late:
        text = f"{len(late)} instances end after the file's {duration:.2f} s, the last at {late[-1].end:g} s"
        found.append(("error", "instances after the end", text))
    if video.frames_per_second and abs(rate / video.frames_per_second - 1) > RATE_TOLERANCE:
        text = f"{rate:.3f} frames per second in the file, {video.frames_per_second:g} in the annotations"
        found.append(("warning", "rate unlike annotated", text))
    elif card and card.rates and all(abs(rate / own - 1) > RATE_TOLERANCE for own in card.rates):
        known = ", ".join(f"{rate:g}" for rate in card.rates)
        text = f"{rate:.3f} frames per second; the original files have {known}"
        found.append(("warning", "rate unlike card", text))
    if video.frames and abs(frames - video.frames) > max(2, 0.01 * video.frames):
        text = f"{frames:.0f} frames in the file, {video.frames} in the annotations' table"
        found.append(("warning", "frame count", text))
    decoded: Any = facts.get("decoded")
    if decoded is not None and decoded < frames:
        level: Level = "error" if decoded < 0.99 * frames else "warning"
        found.append((level, "lost frames", f"{decoded} of {frames:.0f} frames can be decoded"))
    if facts["variable_rate"]:
        found.append(("warning", "variable rate", f"frames last unequally, {rate:.3f} a second on average"))
    if abs(facts["offset_seconds"]) > OFFSET_SECONDS:
        text = f"the first frame is at {facts['offset_seconds']:.3f} s; it is time 0 here"
        found.append(("warning", "late first frame", text))
    if facts["rotation"]:
        found.append(("note", "turned", f"shown turned by {facts['rotation']} degrees"))
    if facts["mirrored"]:
        found.append(("note", "mirrored", "its display matrix mirrors the pictures, which are shown so"))
    if restarts := facts["clock_restarts"]:
        text = f"its times begin anew in {restarts} places, as in joined files; the parts follow one another"
        found.append(("warning", "clock restarts", text))
    if repaired := facts["repaired_times"]:
        text = f"{repaired} packets have no usable time (missing, repeated, far off): moved or left out"
        found.append(("warning", "wrong times", text))
    return found


def require_fit(path: Path, video: Video) -> VideoInfo:
    """Return the facts of a video's file; `InputError` if unreadable or if instances are past its end.

    A run would otherwise silently repeat the last frame for the missing part.
    """
    info = probe(path, video.frames_per_second)
    for level, kind, text in _file(video, asdict(info), None):
        if level == "error":
            raise InputError(f"{path}: {kind}: {text}; is it the file that was annotated?")
    return info
