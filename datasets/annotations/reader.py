"""Read an annotation file in a published format into a checked `Dataset`.

Every error in the file is an `InputError` of one line that names the file and the field, so that a wrong
annotation stops a run at its start instead of causing an unexplained mAP of zero at its end.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.io.errors import InputError
from bench.io.text import format_value
from datasets.annotations.dataset import Dataset, Video
from datasets.annotations.entries import AnnotationRules, EntryReader
from datasets.annotations.formats import AnnotationFile, VideoFacts, read_facts, read_file

CONTAINERS = ("mp4", "mkv", "webm", "avi", "mov")


def read_annotations(
    path: Path | str,
    root: Path | str | None = None,
    *,
    name: str | None = None,
    variant: str = "own",
    rules: AnnotationRules | None = None,
) -> Dataset:
    """Return the data set of an annotation file, in a format of `datasets.annotations.formats`.

    `root` contains the videos (default: `videos` beside the file, else the file's folder). Without `rules`,
    every label is a class, and segments that are empty or outside their video are errors. Durations that are
    missing in the file are read from a CSV table beside it.

    Raises `InputError` for a file that cannot be read or violates the format.
    """
    path = Path(path)
    return check_file(
        read_file(path),
        path,
        _root(path, root),
        name=path.name.split(".")[0] if name is None else name,
        variant=variant,
        rules=rules or AnnotationRules(),
        facts=read_facts(path),
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
        sha256=_digest(file.sha256, {v.id: v.duration for v in videos if "duration" not in database[v.id]}),
        path=path,
        root=root,
        file_pattern=rules.file_pattern,
        repairs=reader.repairs,
    )


def _digest(sha256: str, durations: Mapping[str, float]) -> str:
    """Return the file's digest, combined with durations from other sources: they affect results too."""
    if not durations:
        return sha256
    text = json.dumps([sha256, sorted(durations.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def video_path(dataset: Dataset, video: Video) -> Path:
    """Return the video's file below the data set's root.

    Tried in turn: the video's own `file`, the data set's pattern unchanged, then the pattern with the usual
    container suffixes, without and with ActivityNet's prefix `v_`. Raises `InputError` if none is a file.
    """
    plain = dataset.file_pattern.replace("{id}", video.id)
    names = [video.file] if video.file is not None else [plain, *_usual_names(plain)]
    for name in names:
        candidate = dataset.root / name
        try:
            if candidate.is_file():
                return candidate
        except OSError:
            continue  # a name that is too long for this file system
    tried = video.file or f"{plain}.{{{','.join(CONTAINERS)}}}, with or without v_ before it"
    raise InputError(f"{dataset.root}: no file for video {format_value(video.id)}: looked for {tried}")


def _usual_names(plain: str) -> Iterable[str]:
    folder, _, stem = plain.rpartition("/")
    before = f"{folder}/" if folder else ""
    for prefix in ("", "v_"):
        for suffix in CONTAINERS:
            yield f"{before}{prefix}{stem}.{suffix}"
            yield f"{before}{prefix}{stem}.{suffix.upper()}"


def _root(path: Path, root: Path | str | None) -> Path:
    if root is None:
        beside = path.parent / "videos"
        return beside if beside.is_dir() else path.parent
    if not Path(root).is_dir():
        raise InputError(f"{root}: the folder of the videos of {path.name} is no folder")
    return Path(root)
