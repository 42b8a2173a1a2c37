"""``bench.doctor --convert``: write annotations of any known format as ActivityNet's JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.io.errors import InputError
from bench.io.writing import write_output

if TYPE_CHECKING:
    from datasets.annotations.imports.database import ImportOptions


def convert(source: Path, target: Path, options: ImportOptions, data: Path | None = None) -> list[str]:
    """Write the annotations of ``source`` to ``target`` (.json), and return lines for the user.

    Videos, segments, labels and subsets are those that ``read_annotations`` reads from ``source``. Durations
    that it lacks come from a table beside it, else from the videos in the folder ``data``; a line says how
    many are still missing. Raises ``InputError`` for annotations that cannot be read or written.
    """
    from datasets.annotations.durations import measured_facts, without_duration
    from datasets.annotations.files import VideoFolder, some
    from datasets.annotations.formats import read_facts, read_file
    from datasets.annotations.imports.formats import activitynet_json

    if not target.name.endswith(".json"):
        raise InputError(f"--convert: got {target}, allowed are names ending in .json")
    if target.exists() and target.samefile(source):
        raise InputError(f"--convert: {target} is the file that is converted, allowed is another one")
    file = read_file(source, options=options)
    if not isinstance(file.database, dict):
        raise InputError(f"{file.name}: database: an object of videos is needed")
    facts = read_facts(source)
    lacking = without_duration(file.database, facts)
    if lacking and data is not None:
        facts |= measured_facts(VideoFolder(data), lacking)
        lacking = without_duration(file.database, facts)
    database: dict[str, Any] = {
        video: {**entry, "duration": facts[video].duration}
        if video in without_duration({video: entry}, ()) and video in facts
        else entry
        for video, entry in file.database.items()
    }
    write_output("--convert", target, activitynet_json(database, file.name))
    instances = sum(
        len(entry["annotations"])
        for entry in database.values()
        if isinstance(entry, dict) and isinstance(entry.get("annotations"), list)
    )
    text = [*file.notes, f"{target}: {len(database)} videos, {instances} instances, read as {file.kind}"]
    if lacking:
        where = "--data names the folder of their videos" if data is None else f"{data} has no file of them"
        text.append(f"{target}: {len(lacking)} videos have no duration: {some(list(lacking))}; {where}")
    return text
