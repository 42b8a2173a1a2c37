"""Durations and rates that annotations lack, from the video files and from tables."""

import csv
import io
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from bench.io.errors import InputError
from bench.io.reading import read_text, reason
from bench.io.text import format_value
from datasets.annotations.entries import finite, lacks_duration, unsafe_name
from datasets.annotations.files import VideoFolder
from datasets.annotations.formats import AnnotationFile, VideoFacts
from datasets.annotations.imports.columns import guess_columns


class Source(NamedTuple):
    """What an entry says of its video: its `file`, and its `fps`, which a folder of images needs."""

    file: str | None = None
    frames_per_second: float | None = None


def without_duration(
    database: Mapping[str, Any], facts: Collection[str], exclude: Collection[str] = ()
) -> dict[str, Source]:
    """Return the ids of entries whose duration is neither in them nor in `facts`, with their sources."""
    found = {}
    for key, entry in database.items():
        if key not in facts and key not in exclude and lacks_duration(entry):
            file, rate = entry.get("file"), finite(entry.get("fps"))
            usable = rate is not None and rate > 0
            found[key] = Source(file if isinstance(file, str) else None, rate if usable else None)
    return found


def with_rates(file: AnnotationFile, path: Path) -> AnnotationFile:
    """Return a file whose entries without `fps` have that of a table `video,fps` beside the file at `path`.

    Tables with durations are not read here (`datasets.annotations.formats.read_facts`). Raises `InputError`
    for a value that is no positive number.
    """
    if not isinstance(file.database, dict) or not (rates := _rates(path)):
        return file
    database = {
        key: {**entry, "fps": rates[key]}
        if key in rates and isinstance(entry, dict) and entry.get("fps") is None
        else entry
        for key, entry in file.database.items()
    }
    return replace(file, database=database)


def _rates(path: Path) -> dict[str, float]:
    """Return frames per second by video from the tables beside a file that have these and no durations."""
    rates: dict[str, float] = {}
    for table in sorted((path if path.is_dir() else path.parent).glob("*.csv")):
        if table == path:
            continue
        try:
            rows = csv.DictReader(io.StringIO(read_text(table), newline=""))
            header = set(rows.fieldnames or ())
            if not {"video", "fps"} <= header or header & {"duration", "count"} or guess_columns([*header]):
                continue
            for number, row in enumerate(rows, start=2):
                rate = finite(row["fps"])
                if rate is None or rate <= 0:
                    got = format_value(row["fps"])
                    raise InputError(
                        f"{table.name}: line {number}: fps: got {got}, a positive number is needed"
                    )
                rates[row["video"] or ""] = rate
        except csv.Error as error:
            raise InputError(f"{table.name}: cannot be read as a table: {reason(error)}") from None
    return rates


def measured_facts(
    folder: VideoFolder, videos: Mapping[str, Source], cache: Path | None = None
) -> dict[str, VideoFacts]:
    """Return duration, rate and frames of videos from their files.

    Videos without a file are omitted. Raises `InputError` for a file that cannot be read, and for a video
    with files that differ. The facts are cached below `cache`.
    """
    from datasets.checks.probing import probe_folder

    def refuse(error: InputError) -> None:
        raise error

    files = safe_files(folder, videos, refuse)
    facts = probe_folder(files, folder.root, cache, rates_of(videos)) if files else {}
    for video, each in facts.items():
        if "error" in each:
            raise InputError(f"{files[video]}: {each['error']}")
    return {video: video_facts(each) for video, each in facts.items()}


def rates_of(videos: Mapping[str, Source]) -> dict[str, float]:
    """Return the frames per second that annotations give, by video."""
    return {video: each.frames_per_second for video, each in videos.items() if each.frames_per_second}


def safe_files(
    folder: VideoFolder, videos: Mapping[str, Source], on_error: Callable[[InputError], None]
) -> dict[str, Path]:
    """Return the files of videos that are not checked yet; several that differ are passed to `on_error`."""
    files = {}
    for video, (file, _) in videos.items():
        # An entry with an unsafe name is refused later, when it is checked.
        if unsafe_name(video, allow_folders=False) or (file and unsafe_name(file, allow_folders=True)):
            continue
        try:
            found = folder.find(video, file)
        except InputError as error:
            on_error(error)
            continue
        if found is not None:
            files[video] = found
    return files


def video_facts(facts: Mapping[str, Any]) -> VideoFacts:
    """Return the facts of a probed file as facts of a video."""
    return VideoFacts(float(facts["duration"]), float(facts["frames_per_second"]), int(facts["frames"]))
