"""Annotations: an ActivityNet JSON file in, a checked `Dataset` out.

Every mistake in the file is an `InputError` of one line that names the file and the field, so that a wrong
annotation stops a run at its first second and not as an unexplained mAP of zero at its end.
"""

import gzip
import hashlib
import itertools
import json
import math
import reprlib
import unicodedata
import zlib
from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from bench.errors import InputError

CONTAINERS = ("mp4", "mkv", "webm", "avi", "mov")
END_TOLERANCE_SECONDS = 0.5
"""Annotators' clocks and containers disagree by some frames; more than this is another video's annotation."""


@dataclass(frozen=True)
class Instance:
    """One action: from `start` to `end`, in seconds, of the class `label`."""

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class Video:
    """One video and its instances in order of time; `file` is its path below the data set's root if given."""

    id: str
    subset: str
    duration: float
    instances: tuple[Instance, ...]
    file: str | None = None


@dataclass(frozen=True)
class Dataset:
    """The videos of one annotation file, and where their files lie.

    `sha256` is that of the annotation file's bytes. `clipped` counts instances whose end was cut back to the
    video's, `dropped` those left out because the caller asked for invalid segments to be dropped.
    """

    name: str
    variant: str
    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    sha256: str
    path: Path
    root: Path
    file_pattern: str = "{id}"
    clipped: int = 0
    dropped: int = 0

    @property
    def subsets(self) -> tuple[str, ...]:
        """The names of the subsets that occur, sorted."""
        return tuple(sorted({video.subset for video in self.videos}))

    def subset(self, name: str) -> tuple[Video, ...]:
        """The videos of one subset, in the file's order; `InputError` lists the known subsets."""
        if name not in self.subsets:
            known = ", ".join(self.subsets)
            raise InputError(f"{self.path.name}: subset: got {_shown(name)}, known are {known}")
        return tuple(video for video in self.videos if video.subset == name)

    def instance_count(self, name: str) -> int:
        """How many instances a subset holds."""
        return sum(len(video.instances) for video in self.subset(name))


def read_annotations(
    path: Path | str,
    root: Path | str | None = None,
    *,
    name: str | None = None,
    variant: str = "own",
    classes: Collection[str] | None = None,
    exclude: Collection[str] = (),
    drop_invalid_segments: bool = False,
    file_pattern: str = "{id}",
) -> Dataset:
    """The data set that an ActivityNet JSON file (`.json` or `.json.gz`) describes.

    `root` holds the videos (default: `videos` beside the file, else the file's folder). With `classes` given,
    any other label is an error; without, the classes are the labels that occur. Videos named in `exclude` are
    left out. `drop_invalid_segments` leaves out, and counts, segments that are empty or outside their video,
    as published annotations have some; otherwise such a segment is an error.

    Raises `InputError` for a file that cannot be read or breaks the format.
    """
    path = Path(path)
    content = _read_bytes(path)
    reader = _Reader(path.name, None if classes is None else frozenset(classes), drop_invalid_segments)
    database = reader.database(_parse(path, content))
    videos = tuple(reader.video(key, entry) for key, entry in database.items() if key not in exclude)
    if not videos:
        reader.fail("database", "holds no video, at least one is needed")
    labels = {instance.label for video in videos for instance in video.instances}
    return Dataset(
        name=path.name.split(".")[0] if name is None else name,
        variant=variant,
        classes=tuple(sorted(labels if classes is None else set(classes))),
        videos=videos,
        sha256=hashlib.sha256(content).hexdigest(),
        path=path,
        root=_root(path, root),
        file_pattern=file_pattern,
        clipped=reader.clipped,
        dropped=reader.dropped,
    )


def video_path(dataset: Dataset, video: Video) -> Path:
    """The video's file below the data set's root.

    Tried in turn: the video's own `file`, the data set's pattern as it stands, then the pattern with the
    usual container suffixes, without and with ActivityNet's prefix `v_`. `InputError` when none is a file.
    """
    plain = dataset.file_pattern.replace("{id}", video.id)
    names = [video.file] if video.file is not None else [plain, *_usual_names(plain)]
    for name in names:
        candidate = dataset.root / name
        if candidate.is_file():
            return candidate
    tried = video.file or f"{plain}.{{{','.join(CONTAINERS)}}}, with or without v_ before it"
    raise InputError(f"{dataset.root}: no file for video {_shown(video.id)}: looked for {tried}")


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


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path}: cannot be read: {reason}; expected an ActivityNet JSON file") from None


def _parse(path: Path, content: bytes) -> Any:
    try:
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except RecursionError:
        raise InputError(f"{path.name}: nested too deeply; expected ActivityNet JSON") from None
    except (ValueError, OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path.name}: not JSON: {reason}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of the pairs; a key given twice would lose a video without a word."""
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in result if keys.count(key) > 1)
        raise ValueError(f"key {_shown(twice)} is given twice")
    return result


def _shown(value: object) -> str:
    """The value in quotes or brackets, cut to a length and depth that fit on a line."""
    return reprlib.repr(value)


class _Reader:
    """Checks the values of one file one by one, counting what it mended."""

    def __init__(self, file: str, classes: frozenset[str] | None, drop_invalid_segments: bool) -> None:
        self.file = file
        self.classes = classes
        self.drop_invalid_segments = drop_invalid_segments
        self.clipped = 0
        self.dropped = 0

    def fail(self, field: str, problem: str) -> NoReturn:
        raise InputError(f"{self.file}: {field}: {problem}")

    def field(self, entry: Any, name: str, where: str) -> Any:
        if not isinstance(entry, dict):
            self.fail(where, f"got {_shown(entry)}, an object is needed")
        if name not in entry:
            self.fail(f"{where}.{name}" if where != "top level" else name, "missing")
        return entry[name]

    def database(self, top: Any) -> dict[str, Any]:
        database = self.field(top, "database", "top level")
        if not isinstance(database, dict):
            self.fail("database", f"got {_shown(database)}, an object of videos is needed")
        return database

    def video(self, key: str, entry: Any) -> Video:
        if problem := _unsafe_name(key, allow_folders=False):
            self.fail("database", f"video id {_shown(key)} {problem}")
        where = f"database.{key}"
        subset = self.text(self.field(entry, "subset", where), f"{where}.subset")
        duration = self.number(self.field(entry, "duration", where), f"{where}.duration")
        if duration <= 0:
            self.fail(f"{where}.duration", f"got {duration:g}, more than 0 s is needed")
        annotations = self.field(entry, "annotations", where)
        if not isinstance(annotations, list):
            self.fail(f"{where}.annotations", f"got {_shown(annotations)}, a list is needed")
        places = (f"{where}.annotations[{i}]" for i in range(len(annotations)))
        found = map(self.instance, annotations, itertools.repeat(duration), places)
        instances = sorted(filter(None, found), key=astuple)
        return Video(key, subset, duration, tuple(instances), self.file_name(entry.get("file"), where))

    def instance(self, item: Any, duration: float, where: str) -> Instance | None:
        segment = self.field(item, "segment", where)
        label = self.text(self.field(item, "label", where), f"{where}.label")
        if self.classes is not None and label not in self.classes:
            known = ", ".join(sorted(self.classes)[:20]) + (", ..." if len(self.classes) > 20 else "")
            self.fail(f"{where}.label", f"got {_shown(label)}, allowed are {known}")
        where = f"{where}.segment"
        if not isinstance(segment, list) or len(segment) != 2:
            self.fail(where, f"got {_shown(segment)}, [start, end] in seconds is needed")
        start, end = (self.number(value, where) for value in segment)
        problem = None
        if not start < end:
            problem = f"start {start:g} s is not before end {end:g} s"
        elif start < 0 or start >= duration or end > duration + END_TOLERANCE_SECONDS:
            problem = f"[{start:g}, {end:g}] is outside the video's [0, {duration:g}] s"
        if problem is not None:
            if not self.drop_invalid_segments:
                self.fail(where, problem)
            self.dropped += 1
            return None
        if end > duration:
            self.clipped += 1
        return Instance(start, min(end, duration), label)

    def number(self, value: Any, where: str) -> float:
        """A finite number, also from a string: some published files quote their seconds."""
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            self.fail(where, f"got {_shown(value)}, a finite number of seconds is needed")
        return number

    def text(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not value.strip():
            self.fail(where, f"got {_shown(value)}, a string that is not empty is needed")
        return value

    def file_name(self, value: Any, where: str) -> str | None:
        if value is None:
            return None
        name = self.text(value, f"{where}.file")
        if problem := _unsafe_name(name, allow_folders=True):
            self.fail(f"{where}.file", f"{_shown(name)} {problem}")
        return name


def _unsafe_name(name: str, allow_folders: bool) -> str | None:
    """Why the name must not become part of a path, or None. Annotation files come from strangers."""
    parts = PurePosixPath(name).parts if allow_folders else (name,)
    if not name or name.isspace():
        return "is empty"
    if "\\" in name or any("/" in part for part in parts):
        return "must be relative, with / between" if allow_folders else "must not hold path separators"
    if ".." in name:
        return "must not hold '..'"
    if any(part.startswith(".") for part in parts):
        return "must not begin with a dot"
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        return "must not hold control characters"
    return None
