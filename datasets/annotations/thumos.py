"""The formats of THUMOS: the challenge's folder with a text file per class, and MultiTHUMOS's JSON."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.io.errors import InputError
from bench.io.reading import MAX_RECORD_BYTES, read_bytes, read_text
from bench.io.text import format_value
from datasets.annotations.imports.times import seconds_of

NO_CLASSES = re.compile(r"(readme.*|.*class_?list|.*classes)", re.IGNORECASE)
SUBSET_SUFFIX = re.compile(r"_(val|validation|test)$")


def is_multithumos(top: Any) -> bool:
    """Return whether all values of parsed JSON are videos with numbered actions."""
    return (
        isinstance(top, dict)
        and bool(top)
        and all(isinstance(entry, dict) and "actions" in entry for entry in top.values())
    )


def read_multithumos(path: Path, top: Mapping[str, Any], numbered: Sequence[str]) -> dict[str, Any]:
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


def is_class_file(content: bytes) -> bool:
    """Return whether the first line of a text file is `video start end`."""
    lines = (line.split() for line in content.decode("utf-8-sig", "replace").splitlines())
    words = next((line for line in lines if line), [])
    return len(words) == 3 and all(seconds_of(word) is not None for word in words[1:])


def read_class_files(folder: Path, files: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """Return the database of a folder's files such as `Biking_val.txt`, and their digest.

    The lines are `video start end`. The class is the file's name without `_val` or `_test`, the subset the
    second word of the video's id (`video_test_0000004`). Videos without instances are not included: the
    files do not contain them.
    """
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
    return database, digest.hexdigest()


def _lines(path: Path) -> list[tuple[int, str]]:
    text = read_text(path)
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
