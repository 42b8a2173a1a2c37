"""Read an annotation file in a published format into a checked `Dataset`.

Every error in the file is an `InputError` of one line that names the file and the field, so that a wrong
annotation stops a run at its start instead of causing an unexplained mAP of zero at its end.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from bench.io.errors import InputError
from datasets.annotations.dataset import Dataset, Video
from datasets.annotations.durations import measured_facts, with_rates, without_duration
from datasets.annotations.entries import AnnotationRules, EntryReader, lacks_duration
from datasets.annotations.files import VideoFolder
from datasets.annotations.formats import AnnotationFile, VideoFacts, read_facts, read_file


def read_annotations(
    path: Path | str,
    root: Path | str | None = None,
    *,
    name: str | None = None,
    variant: str = "own",
    rules: AnnotationRules | None = None,
    cache: Path | None = None,
) -> Dataset:
    """Return the data set of an annotation file, in a format of `datasets.annotations.formats`.

    `root` contains the videos (default: `videos` beside the file, else the file's folder). Without `rules`,
    every label is a class, and segments that are empty or outside their video are errors. Durations that are
    missing in the file are read from a CSV table beside it, else from the videos; what is read from videos is
    cached below `cache`.

    Raises `InputError` for a file that cannot be read or violates the format.
    """
    path, rules = Path(path), rules or AnnotationRules()
    file, facts, below = with_rates(read_file(path), path), read_facts(path), _root(path, root)
    if isinstance(file.database, dict):
        lacking = without_duration(file.database, facts, rules.exclude)
        facts |= measured_facts(VideoFolder(below, rules.file_pattern), lacking, cache)
    return check_file(
        file,
        path,
        below,
        name=path.name.split(".")[0] if name is None else name,
        variant=variant,
        rules=rules,
        facts=facts,
    )


def check_file(
    file: AnnotationFile,
    path: Path,
    root: Path,
    *,
    name: str,
    variant: str,
    rules: AnnotationRules,
    facts: Mapping[str, VideoFacts] | None = None,
) -> Dataset:
    """Check the entries of a file that was read, and return its data set. Raises `InputError` likewise."""
    reader = EntryReader(file.name, rules, facts)
    database = {
        key: entry for key, entry in reader.database(file.database).items() if key not in rules.exclude
    }
    videos = tuple(reader.video(key, entry) for key, entry in database.items())
    if not videos:
        reader.fail("database", "holds no video, at least one is needed")
    labels = {instance.label for video in videos for instance in video.instances}
    return Dataset(
        name=name,
        variant=variant,
        classes=tuple(sorted(labels if rules.classes is None else set(rules.classes))),
        videos=videos,
        sha256=_digest(file.sha256, {v.id: v.duration for v in videos if lacks_duration(database[v.id])}),
        path=path,
        root=root,
        file_pattern=rules.file_pattern,
        repairs=reader.repairs,
        notes=file.notes,
    )


def _digest(sha256: str, durations: Mapping[str, float]) -> str:
    """Return the file's digest, combined with durations from other sources: they affect results too."""
    if not durations:
        return sha256
    text = json.dumps([sha256, sorted(durations.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def video_path(dataset: Dataset, video: Video) -> Path:
    """Return the video's file below the data set's root, by the rule of `VideoFolder.find`.

    Raises `InputError` if there is none, or if there are several that differ.
    """
    found = dataset.folder.find(video.id, video.file)
    if found is None:
        raise InputError(dataset.folder.missing(video.id, video.file))
    return found


def default_root(path: Path) -> Path:
    """Return the default folder of the videos of an annotation file: `videos` beside it, or its own."""
    beside = path.parent / "videos"
    return beside if beside.is_dir() else path.parent


def _root(path: Path, root: Path | str | None) -> Path:
    if root is None:
        return default_root(path)
    if not Path(root).is_dir():
        raise InputError(f"{root}: the folder of the videos of {path.name} is no folder")
    return Path(root)
