"""Load a known data set from its card, the user's annotation file and the user's videos.

Mismatches are reported here, before any computation: another version of the ground truth than the variant's,
missing videos, two files for one video.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.io.errors import InputError
from bench.io.reading import read_text
from datasets.annotations.dataset import Dataset
from datasets.annotations.durations import Source, measured_facts, without_duration
from datasets.annotations.entries import AnnotationRules
from datasets.annotations.files import FEATURE_SUFFIXES, SUFFIXES, VideoFolder, some
from datasets.annotations.formats import AnnotationFile, VideoFacts, read_facts, read_file
from datasets.annotations.reader import check_file
from datasets.cards.cards import Card, Variant, read_card, split_name

MISSING_LIST = "missing.txt"


Probe = Callable[[Sequence[str]], Mapping[str, VideoFacts]]


def _no_facts(videos: Sequence[str]) -> Mapping[str, VideoFacts]:
    return {}


def load_known(
    name: str,
    data: Path | None,
    annotations: Path | None = None,
    cache: Path | None = None,
    *,
    features: bool = False,
) -> Dataset:
    """Return the data set of a card: `thumos14`, or `thumos14:211` for a variant other than its first.

    `data` is a folder that contains the videos, at any depth, and the annotations unless `annotations` is
    given: a file or folder with a name of the card, in `data` or in its folder `annotations`. Every video of
    the variant must exist except those that `missing.txt` in `data` lists, one id per line; the variant is
    then called, for example, `211, 2 missing (1f0c)`. Durations read from videos are cached below `cache`.
    With `features`, `data` contains files of features in place of the videos.
    Raises `InputError` for every mismatch.
    """
    card = read_card(name)
    variant = card.variant(split_name(name)[1])
    if data is None:
        raise InputError(f"data set {card.name}: the folder of its videos is needed as data; ask {card.home}")
    if not data.is_dir():
        raise InputError(f"{data}: the folder of the videos of {card.name} is no folder")
    path = annotations or find_annotations(card, data)
    folder = VideoFolder(data, suffixes=FEATURE_SUFFIXES if features else SUFFIXES)
    dataset = check_known(
        card, variant, path, lambda ids: measured_facts(folder, dict.fromkeys(ids, Source()), cache)
    )
    absent = read_missing(
        data / MISSING_LIST, [video.id for video in dataset.videos], f"{card.name}:{variant.name}"
    )
    if absent:
        digest = hashlib.sha256("\n".join(sorted(absent)).encode()).hexdigest()[:4]
        dataset = replace(
            dataset,
            videos=tuple(video for video in dataset.videos if video.id not in absent),
            variant=f"{variant.name}, {len(absent)} missing ({digest})",
            missing=tuple(sorted(absent)),
        )
    files = {video.id: folder.find(video.id, video.file) for video in dataset.videos}
    videos = tuple(
        replace(
            video, file=None if (found := files[video.id]) is None else found.relative_to(data).as_posix()
        )
        for video in dataset.videos
    )
    if lost := [video.id for video in videos if video.file is None]:
        raise InputError(
            f"{data}: {len(lost)} of {len(videos)} videos of {card.name}:{variant.name} have no file: "
            f"{some(lost)}; list what you cannot get in {MISSING_LIST} there, or ask {card.home}"
        )
    # Two variants of one file are different ground truths and need different digests.
    text = "\n".join((dataset.sha256, variant.name, *dataset.missing))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return replace(dataset, videos=videos, root=data, sha256=digest, features=features)


def check_known(
    card: Card, variant: Variant, path: Path, probe: Probe = _no_facts, *, counted: bool = True
) -> Dataset:
    """Return the data set of an annotation file in a card's variant; `counted` checks the card's counts.

    `probe` returns the facts of videos whose duration is neither in the file nor in a table beside it.
    """
    file, facts = read_card_file(card, path)
    wanted = set(card.subsets.values())
    entries = {key: entry for key, entry in file.database.items() if not _of_another_subset(entry, wanted)}
    for video, subset in card.unannotated.items():
        if video not in entries:
            entries[video] = {"subset": subset, "annotations": []}
    for video in (*variant.excluded, *card.excluded):
        entries.pop(video, None)
    facts = {**facts, **probe(list(without_duration(entries, facts)))}
    for video in card.unannotated:
        if video in entries and video in without_duration({video: entries[video]}, facts):
            raise InputError(
                f"{file.name}: variant {variant.name} needs {video}, which the file lacks and no video "
                f"file or table has the duration of; other variants: {_others(card, variant)}"
            )
    dataset = check_file(
        replace(file, database=entries),
        path,
        path.parent,
        name=card.name,
        variant=variant.name,
        rules=AnnotationRules(card.classes or None, (), variant.policy, card.ignored),
        facts=facts,
    )
    if counted:
        check_counts(card, variant, dataset)
    return dataset


def read_card_file(card: Card, path: Path) -> tuple[AnnotationFile, dict[str, VideoFacts]]:
    """Return an annotation file with the card's subset names, and the facts from tables beside it."""
    file = read_file(path, card.numbered)
    if not isinstance(file.database, dict):
        raise InputError(f"{file.name}: database: an object of videos is needed")
    database = {key: _renamed(entry, card.aliases) for key, entry in file.database.items()}
    return replace(file, database=database), read_facts(path)


def _renamed(entry: Any, aliases: Mapping[str, str]) -> Any:
    subset = entry.get("subset") if isinstance(entry, dict) else None
    return {**entry, "subset": aliases[subset]} if isinstance(subset, str) and subset in aliases else entry


def _of_another_subset(entry: Any, wanted: Collection[str]) -> bool:
    """Return whether an entry is well formed and of a subset that the card does not use."""
    return isinstance(entry, dict) and isinstance(entry.get("subset"), str) and entry["subset"] not in wanted


def check_counts(card: Card, variant: Variant, dataset: Dataset) -> None:
    """Raise `InputError` if the numbers of videos or instances differ from the variant's."""
    for what, expected in (("videos", variant.videos), ("instances", variant.instances)):
        for subset, count in expected.items():
            chosen = [video for video in dataset.videos if video.subset == subset]
            got = len(chosen) if what == "videos" else sum(len(video.instances) for video in chosen)
            if got != count:
                raise InputError(
                    f"{dataset.path.name}: {got} {what} in {subset}, {card.name}:{variant.name} has {count} "
                    f"({variant.why}); other variants: {_others(card, variant)}, or give the file's path as "
                    "the data set to use it as it is"
                )


def _others(card: Card, variant: Variant) -> str:
    return ", ".join(f"{card.name}:{each.name}" for each in card.variants if each != variant) or "none"


def find_annotations(card: Card, data: Path) -> Path:
    """Return the file or folder in `data` with a card's annotation name; `InputError` if there is none."""
    for folder in (data, data / "annotations"):
        for name in card.annotation_files:
            for candidate in (folder / name, folder / f"{name}.gz"):
                if candidate.is_file() or (candidate.is_dir() and not name.endswith(".json")):
                    return candidate
    names = ", ".join(card.annotation_files)
    raise InputError(f"{data}: no annotations of {card.name}: looked for {names}, here and in annotations/")


def read_missing(path: Path, videos: Collection[str], name: str) -> set[str]:
    """Return the ids in a list of missing videos; `InputError` for one that is not among `videos`."""
    if not path.is_file():
        return set()
    try:
        lines = read_text(path).split()
    except InputError as error:
        raise InputError(f"{error}; a video id a line is needed") from None
    known = set(videos)
    if strange := [line for line in lines if line not in known]:
        raise InputError(f"{path}: {some(strange)}: not in {name}")
    return set(lines)
