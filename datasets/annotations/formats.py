"""Read published annotation formats into one structure: ActivityNet's `database`, not yet checked.

Supported are ActivityNet's JSON (also as written by ActionFormer, AFSD, HACS and FineAction), MultiTHUMOS's
JSON of numbered actions, the original THUMOS folder with a text file per class, and the files of annotation
tools (`datasets.annotations.imports`), one or a folder of them. Single values are checked by
`datasets.annotations.entries`.
"""

import csv
import hashlib
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.io.errors import InputError
from bench.io.reading import MAX_DATA_BYTES, parse_json, read_bytes, read_text, reason
from bench.io.text import format_value
from datasets.annotations.files import some
from datasets.annotations.imports.columns import guess_columns
from datasets.annotations.imports.database import Database, ImportOptions, subset_of_name
from datasets.annotations.imports.formats import (
    KNOWN,
    SUFFIXES,
    holds_json,
    read_json_import,
    read_text_import,
)
from datasets.annotations.imports.tables import is_segment_table
from datasets.annotations.thumos import (
    NO_CLASSES,
    is_class_file,
    is_multithumos,
    read_class_files,
    read_multithumos,
)

TABLES = (".csv", ".tsv", ".txt")
"""Suffixes of files in a folder that are read only if they are tables of segments."""
TOLERANCE_SECONDS = 0.05
"""Difference of two durations of a video in tables beside the annotations that is rounding."""


@dataclass(frozen=True)
class AnnotationFile:
    """The unchecked `database` of a file or folder, its name for messages, its digest and its kind.

    The digest is that of the bytes; `kind` is `activitynet`, `multithumos`, `thumos-text`, a kind of
    `datasets.annotations.imports`, or `folder`. `notes` say what was guessed or left out.
    """

    name: str
    database: Any
    sha256: str
    kind: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VideoFacts:
    """The facts of one video in a table beside the annotations: seconds, rate, frames."""

    duration: float
    frames_per_second: float | None = None
    frames: int | None = None


def read_file(
    path: Path, numbered: Sequence[str] = (), options: ImportOptions | None = None
) -> AnnotationFile:
    """Return the database of an annotation file, or of a folder of text files or of annotation tools' files.

    `numbered` has the class names of a file that numbers them from 1, unless there is a `class_list.txt`
    beside it; a number without a name becomes `class 21`. `options` has what a tool's file may lack. Raises
    `InputError` if the file cannot be read, or is of no known format.
    """
    if path.is_dir():
        return _read_folder(path, options or ImportOptions())
    imported = Database(path.name, str(path), options or ImportOptions())
    file = _read_content(path, read_bytes(path, MAX_DATA_BYTES), numbered, imported)
    return replace(file, notes=(*file.notes, *imported.options.unused(imported.applied)))


def _read_content(path: Path, content: bytes, numbered: Sequence[str], imported: Database) -> AnnotationFile:
    """Read a file as its own formats if it has JSON of these, else into `imported`."""
    digest = hashlib.sha256(content).hexdigest()
    if not path.name.lower().endswith((".json", ".json.gz")) and not holds_json(content):
        kind = read_text_import(content, imported)
        return AnnotationFile(path.name, imported.videos, digest, kind, tuple(imported.notes))
    top = parse_json(content, path.name, packed=path.suffix.lower() == ".gz")
    kind = "activitynet"
    if is_multithumos(top) and "database" not in top:
        top, kind = {"database": read_multithumos(path, top, numbered)}, "multithumos"
    if isinstance(top, dict) and "database" in top:
        imported.applied |= _give_subset(top["database"], imported.options)
        return AnnotationFile(path.name, top["database"], digest, kind)
    if found := read_json_import(top, imported):
        return AnnotationFile(path.name, imported.videos, digest, found, tuple(imported.notes))
    if not isinstance(top, dict):
        raise InputError(
            f"{path.name}: top level: got {format_value(top)}, an object is needed; known are {KNOWN}"
        )
    raise InputError(f"{path.name}: database: missing; known are {KNOWN}")


def read_facts(path: Path) -> dict[str, VideoFacts]:
    """Return facts by video id from the CSV tables in the annotations' folder.

    A table is used if its header has `video` and either `duration` or `fps` and `count`, and it is no table
    of segments; others are skipped, also files that cannot be read as text: they may be anything.
    Raises `InputError` for a value in such a table that is not a positive number, and for a video with two
    durations.
    """
    folder = path if path.is_dir() else path.parent
    facts, origins = dict[str, VideoFacts](), dict[str, str]()
    for table in sorted(folder.glob("*.csv")):
        if table == path:
            continue
        try:
            text = read_text(table)
        except InputError:
            continue
        try:
            rows = csv.DictReader(io.StringIO(text, newline=""))
            header = set(rows.fieldnames or ())
            if "video" not in header or not ({"duration"} <= header or {"fps", "count"} <= header):
                continue
            if guess_columns(rows.fieldnames or ()):
                continue
            for row in rows:
                where, video = f"{table.name}: line {rows.line_num}", row["video"] or ""
                found = _facts(where, row)
                other = facts.setdefault(video, found)
                if abs(other.duration - found.duration) > TOLERANCE_SECONDS:
                    durations = f"{format_value(video)} lasts {found.duration:g} s"
                    raise InputError(f"{where}: {durations}, and {other.duration:g} s in {origins[video]}")
                facts[video], origins[video] = found, where
        except csv.Error as error:
            raise InputError(f"{table.name}: cannot be read as a table: {reason(error)}") from None
    return facts


def _facts(where: str, row: Mapping[str, Any]) -> VideoFacts:
    def positive(name: str) -> float | None:
        text = row.get(name)
        if text in (None, ""):
            return None
        try:
            value = float(str(text))
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{where}: {name}: got {format_value(text)}, a positive number is needed")
        return value

    if any(cell.strip() for cell in row.get(None, ())):  # type: ignore[call-overload]
        raise InputError(f"{where}: more cells than the first line has: a decimal comma needs quotes")
    rate, count, duration = positive("fps"), positive("count"), positive("duration")
    if duration is None and rate is not None and count is not None:
        duration = count / rate
    if duration is None or not (math.isfinite(duration) and duration > 0):
        raise InputError(f"{where}: duration: missing, or fps and count to compute it from")
    return VideoFacts(duration, rate, None if count is None else round(count))


def _read_folder(folder: Path, options: ImportOptions) -> AnnotationFile:
    """Read the THUMOS challenge's folder, or all annotation files of tools in a folder.

    It is the challenge's if a text file has lines `video start end`, or if it has only text files and none
    is a table of segments.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()
    )
    texts = [path for path in files if path.suffix.lower() == ".txt" and not NO_CLASSES.fullmatch(path.stem)]
    contents = [read_bytes(path, MAX_DATA_BYTES) for path in texts]
    others = [path for path in files if path.suffix.lower() not in (".txt", ".csv")]
    only_texts = bool(texts) and not others and not _segment_tables(files)
    if not only_texts and not any(map(is_class_file, contents)):
        return _read_tool_files(folder, files, options)
    database, digest = read_class_files(folder, texts)
    others += _segment_tables([path for path in files if path.suffix.lower() == ".csv"])
    notes = tuple(options.unused(_give_subset(database, options)))
    if others:
        names = some([path.relative_to(folder).as_posix() for path in others])
        notes = (f"not read beside the text files of classes: {names}", *notes)
    return AnnotationFile(folder.name, database, digest, "thumos-text", notes)


def _segment_tables(files: Sequence[Path]) -> list[Path]:
    tables = (path for path in files if path.suffix.lower() in TABLES)
    return [path for path in tables if is_segment_table(read_bytes(path, MAX_DATA_BYTES))]


def _read_tool_files(folder: Path, files: Sequence[Path], options: ImportOptions) -> AnnotationFile:
    """Read annotation files, each with the subset that its folder or its name gives.

    Tables that are none of segments are left out, with a note: they may have durations.
    """
    digest, kinds, notes = hashlib.sha256(), Counter[str](), dict[str, None]()
    database, origins, applied = dict[str, Any](), dict[str, str](), set[str]()
    for path in files:
        name, content = path.relative_to(folder).as_posix(), read_bytes(path, MAX_DATA_BYTES)
        if path.suffix.lower() in TABLES and not is_segment_table(content):
            notes[f"{name} is not read as annotations: it is no table of segments"] = None
            continue
        imported = Database(name, str(folder), options, _subset_in_folder(name))
        file = _read_content(path, content, (), imported)
        digest.update(f"{name}\0".encode(errors="replace") + content)
        kinds[file.kind] += 1
        notes |= dict.fromkeys(file.notes)
        applied |= imported.applied
        for video, entry in file.database.items() if isinstance(file.database, dict) else ():
            if (other := origins.setdefault(video, name)) != name:
                raise InputError(
                    f"{name}: {format_value(video)}: another file of the folder has it too, {other}; keep "
                    "one of them there, and the folder's converted annotations outside"
                )
            database[video] = entry
    if not kinds:
        raise InputError(
            f"{folder}: holds no text file of a class such as Diving_val.txt and no annotation file; known "
            f"are {KNOWN}"
        )
    shown = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    notes = dict.fromkeys([f"files read: {shown}", *notes, *options.unused(applied)])
    return AnnotationFile(folder.name, database, digest.hexdigest(), "folder", tuple(notes))


def _subset_in_folder(name: str) -> str | None:
    """Return the subset that a word gives, of the nearest folder or else the file, or the folder's name."""
    *folders, file = name.split("/")
    given = (subset_of_name(each) for each in (*reversed(folders), file))
    return next((each for each in given if each), folders[-1] if folders else None)


def _give_subset(database: Any, options: ImportOptions) -> set[str]:
    """Give the option's subset to entries without one; return the names of the options that had an effect."""
    entries = database.values() if isinstance(database, dict) else ()
    lacking = [each for each in entries if isinstance(each, dict) and each.get("subset") in (None, "")]
    if options.subset is None or not lacking:
        return set()
    for entry in lacking:
        entry["subset"] = options.subset
    return {"subset"}
