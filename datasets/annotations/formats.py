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
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.io.errors import InputError
from bench.io.reading import MAX_DATA_BYTES, MAX_RECORD_BYTES, parse_json, read_bytes, read_text, reason
from bench.io.text import format_value
from datasets.annotations.imports.columns import guess_columns
from datasets.annotations.imports.database import Database, ImportOptions, subset_of_name
from datasets.annotations.imports.formats import KNOWN, holds_json, read_json_import, read_text_import
from datasets.annotations.imports.tables import is_segment_table

TOOL_SUFFIXES = (".json", ".csv", ".tsv", ".eaf", ".xml")
NO_CLASSES = re.compile(r"(readme.*|.*class_?list|.*classes)", re.IGNORECASE)
SUBSET_SUFFIX = re.compile(r"_(val|validation|test)$")


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
    content = read_bytes(path, MAX_DATA_BYTES)
    return _read_content(path, content, numbered, Database(path.name, options or ImportOptions()))


def _read_content(path: Path, content: bytes, numbered: Sequence[str], imported: Database) -> AnnotationFile:
    """Read a file as its own formats if it has JSON of these, else into `imported`."""
    digest = hashlib.sha256(content).hexdigest()
    if not path.name.endswith((".json", ".json.gz")) and not holds_json(content):
        kind = read_text_import(content, imported)
        return AnnotationFile(path.name, imported.videos, digest, kind, tuple(imported.notes))
    top = parse_json(content, path.name, packed=path.suffix == ".gz")
    kind = "activitynet"
    if isinstance(top, dict) and "database" not in top and _numbers_actions(top):
        top, kind = {"database": _multithumos(path, top, numbered)}, "multithumos"
    if isinstance(top, dict) and "database" in top:
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
    of segments; others are skipped.
    Raises `InputError` for a value in such a table that is not a positive number.
    """
    folder = path if path.is_dir() else path.parent
    facts: dict[str, VideoFacts] = {}
    for table in sorted(folder.glob("*.csv")):
        if table == path:
            continue
        try:
            rows = csv.DictReader(io.StringIO(read_text(table), newline=""))
            header = set(rows.fieldnames or ())
            if "video" not in header or not ({"duration"} <= header or {"fps", "count"} <= header):
                continue
            if guess_columns(rows.fieldnames or ()):
                continue
            for number, row in enumerate(rows, start=2):
                facts[row["video"] or ""] = _facts(f"{table.name}: line {number}", row)
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

    rate, count, duration = positive("fps"), positive("count"), positive("duration")
    if duration is None and rate is not None and count is not None:
        duration = count / rate
    if duration is None or not (math.isfinite(duration) and duration > 0):
        raise InputError(f"{where}: duration: missing, or fps and count to compute it from")
    return VideoFacts(duration, rate, None if count is None else round(count))


def _numbers_actions(top: Mapping[str, Any]) -> bool:
    return bool(top) and all(isinstance(entry, dict) and "actions" in entry for entry in top.values())


def _multithumos(path: Path, top: Mapping[str, Any], numbered: Sequence[str]) -> dict[str, Any]:
    """Convert MultiTHUMOS's `{video: {subset, duration, actions: [[number, start, end]]}}` to a database."""
    names = _class_list(path.parent / "class_list.txt") or dict(enumerate(numbered, start=1))

    def annotation(video: str, index: int, action: Any) -> dict[str, Any]:
        number = action[0] if isinstance(action, list) and len(action) == 3 else None
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            where = f"{path.name}: {format_value(video)}.actions[{index}]"
            raise InputError(f"{where}: got {format_value(action)}, [class number, start, end] is needed")
        return {"label": names.get(number, f"class {number}"), "segment": action[1:]}

    database = {}
    for video, entry in top.items():
        actions = entry["actions"]
        if not isinstance(actions, list):
            raise InputError(
                f"{path.name}: {format_value(video)}.actions: got {format_value(actions)}, a list is needed"
            )
        annotations = [annotation(video, index, action) for index, action in enumerate(actions)]
        database[video] = {**entry, "annotations": annotations}
    return database


def _class_list(path: Path) -> dict[int, str]:
    """Return names by number from lines `number name`; empty if there is no such file."""
    if not path.is_file():
        return {}
    names = {}
    for number, line in _lines(path):
        match line.split():
            case [index, name] if index.isdecimal():
                names[int(index)] = name
            case _:
                raise InputError(
                    f"{path.name}: line {number}: got {format_value(line)}, 'number name' is needed"
                )
    return names


def _read_folder(folder: Path, options: ImportOptions) -> AnnotationFile:
    """Read the THUMOS challenge's folder, or a folder of annotation tools' files.

    The challenge's has files such as `Biking_val.txt` with lines `video start end`.

    The class is the file's name without `_val` or `_test`, the subset the second word of the video's id
    (`video_test_0000004`). Videos without instances are not included: the files do not contain them.
    """
    files = sorted(path for path in folder.rglob("*.txt") if not NO_CLASSES.fullmatch(path.stem))
    if not files:
        return _read_tool_files(folder, options)
    digest, database = hashlib.sha256(), dict[str, Any]()
    for path in files:
        label = SUBSET_SUFFIX.sub("", path.stem)
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode(errors="replace"))
        digest.update(read_bytes(path, MAX_RECORD_BYTES))
        for number, line in _lines(path):
            match line.split():
                case [video, start, end]:
                    subset = video.split("_")[1] if video.count("_") == 2 else ""
                    entry = database.setdefault(video, {"subset": subset, "annotations": []})
                    entry["annotations"].append({"segment": [start, end], "label": label})
                case _:
                    raise InputError(
                        f"{path.name}: line {number}: got {format_value(line)}, 'video start end' is needed"
                    )
    return AnnotationFile(folder.name, database, digest.hexdigest(), "thumos-text")


def _read_tool_files(folder: Path, options: ImportOptions) -> AnnotationFile:
    """Read all annotation files in a folder, each with the subset that its folder or its name gives.

    Tables that are none of segments are left out, with a note: they may have durations.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in TOOL_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    digest, kinds, notes = hashlib.sha256(), Counter[str](), dict[str, None]()
    database: dict[str, Any] = {}
    for path in files:
        name, content = path.relative_to(folder).as_posix(), read_bytes(path, MAX_DATA_BYTES)
        if path.suffix.lower() == ".csv" and not is_segment_table(content):
            notes[f"{name} is not read as annotations: it is no table of segments"] = None
            continue
        subset = subset_of_name(name) or (path.parent.name if "/" in name else None)
        imported = Database(name, options, subset)
        file = _read_content(path, content, (), imported)
        digest.update(f"{name}\0".encode(errors="replace") + content)
        kinds[file.kind] += 1
        notes |= dict.fromkeys(file.notes)
        for video, entry in file.database.items() if isinstance(file.database, dict) else ():
            other = database.setdefault(video, entry)
            if other is not entry:
                raise InputError(f"{name}: {format_value(video)}: another file of the folder has it too")
    if not kinds:
        raise InputError(
            f"{folder}: holds no text file of a class such as Diving_val.txt and no annotation file; known "
            f"are {KNOWN}"
        )
    shown = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return AnnotationFile(
        folder.name, database, digest.hexdigest(), "folder", (f"files read: {shown}", *notes)
    )


def _lines(path: Path) -> list[tuple[int, str]]:
    text = read_text(path)
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
