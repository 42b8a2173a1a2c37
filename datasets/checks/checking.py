"""Find all errors in an annotation file, not only the first one."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.io.errors import InputError
from datasets.annotations.dataset import Instance, Policy, SegmentPolicy, Video
from datasets.annotations.durations import Source, with_rates, without_duration
from datasets.annotations.entries import AnnotationRules, EntryReader, is_duplicate
from datasets.annotations.formats import AnnotationFile, VideoFacts, read_facts, read_file
from datasets.cards.cards import Card, Variant, known_datasets, read_card
from datasets.cards.known import check_known, read_card_file

Level = Literal["note", "warning", "error"]
Measure = Callable[[Mapping[str, Source]], Mapping[str, VideoFacts]]
"""Returns the facts of videos, given by id and `file`, from their files; others are omitted."""
KINDS = {"empty": "empty segment", "outside": "segment outside", "duplicates": "duplicate segment"}
TREATMENTS = {"keep": "kept", "drop": "left out", "refuse": "refused"}


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


class FindingReader(EntryReader):
    """Reads entries as a run does, but collects the segments that reading would refuse, and keeps them."""

    def __init__(self, file: str, rules: AnnotationRules, known: bool) -> None:
        super().__init__(file, rules)
        self.known = known
        self.found: list[tuple[Level, str, str]] = []

    def apply_policy(
        self, kind: str, treatment: Policy, where: str, problem: str, instance: Instance
    ) -> Instance | None:
        """Add a finding: a note in a known data set, else an error if reading refuses the segment."""
        level: Level = "note" if self.known else "error" if treatment == "refuse" else "warning"
        label = "" if kind == "duplicates" else f"{instance.label}: "
        self.found.append((level, KINDS[kind], f"{label}{problem}: {TREATMENTS[treatment]}"))
        if treatment == "drop":
            self.count(kind)
        return None if treatment == "drop" or instance.start > instance.end else instance


def check_annotations(
    path: Path,
    card: Card | None = None,
    variant: Variant | None = None,
    measure: Measure = lambda videos: {},
) -> CheckedFile:
    """Return all findings in an annotation file, with or without a card; `InputError` if unreadable.

    `measure` reads durations that the file and the tables beside it lack. A video whose duration it does not
    return either has an infinite duration here.
    """
    file, facts = (
        read_card_file(card, path) if card else (with_rates(read_file(path), path), read_facts(path))
    )
    policy = variant.policy if variant else SegmentPolicy()
    rules = AnnotationRules(policy=policy, ignored=card.ignored if card else ())
    reader = FindingReader(file.name, rules, variant is not None)
    database = reader.database(file.database)
    lacking = without_duration(
        {key: entry for key, entry in database.items() if _is_used(key, entry, card, variant)}, facts
    )
    measured = measure(lacking)
    findings = [Finding("note", "import", "", note) for note in file.notes]
    videos: list[Video] = []
    unknown, taken = Counter[str](), Counter[str]()
    for key, entry in database.items():
        reader.facts = {key: facts.get(key) or measured.get(key) or VideoFacts(math.inf)}
        reader.found = []
        try:
            video = reader.video(key, entry)
        except InputError as error:
            findings.append(Finding("error", "entry", key[:80], str(error)))
            continue
        unknown[video.subset] += math.isinf(video.duration)
        taken[video.subset] += key in measured
        videos.append(video)
        findings += [Finding(level, kind, key, text) for level, kind, text in reader.found]
        findings += _labels(video, card)
    lack = "have no duration in the file or in a table beside it"
    for subset, count in (+unknown).items():
        findings.append(Finding("note", "duration unknown", "", f"{count} videos of {subset} {lack}"))
    for subset, count in (+taken).items():
        text = f"{count} videos of {subset} {lack}: it is read from the videos"
        findings.append(Finding("note", "duration from video", "", text))
    findings += overlapping([video.id for video in videos])
    if reader.repairs.ignored:
        text = f"{reader.repairs.ignored} instances of {', '.join(reader.ignored)} are left out"
        findings.append(Finding("note", "ignored label", "", text))
    variants = recognise(path, file, card)
    findings += _recognised(path, card, variant, variants)
    return CheckedFile(tuple(videos), tuple(findings), variants, file.kind, file.sha256)


def _is_used(key: str, entry: Any, card: Card | None, variant: Variant | None) -> bool:
    """Return whether a run on the card's variant uses an entry."""
    if card is None or variant is None:
        return True
    subset = entry.get("subset") if isinstance(entry, dict) else None
    return subset in card.subsets.values() and key not in (*card.excluded, *variant.excluded)


def _labels(video: Video, card: Card | None) -> list[Finding]:
    """Return findings on labels that contradict a card."""
    found = []
    for instance in video.instances:
        if card and card.classes and instance.label not in card.classes:
            span = f"{instance.label} [{instance.start:g}, {instance.end:g}]"
            found.append(Finding("error", "unknown label", video.id, f"{span}: no class of {card.name}"))
    spans = {(i.label, round(i.start, 1), round(i.end, 1)) for i in video.instances}
    for label, start, end in sorted(spans):
        other = card.implied.get(label) if card else None
        if other and (other, start, end) not in spans:
            text = f"{label} [{start:g}, {end:g}] is not also a {other}: another version of the annotations"
            found.append(Finding("warning", "implied class", video.id, text))
    return found


def repeated(video: Video) -> list[Finding]:
    """Return a warning for each instance of a video that is annotated twice, where reading keeps both."""
    found = []
    for number, each in enumerate(video.instances):
        if is_duplicate(each, list(video.instances[max(0, number - 50) : number])):
            text = f"{each.label} from {each.start:g} to {each.end:g} s is there twice: kept"
            found.append(Finding("warning", KINDS["duplicates"], video.id, text))
    return found


def overlapping(ids: Sequence[str]) -> list[Finding]:
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
