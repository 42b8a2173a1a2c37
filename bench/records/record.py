"""Run records: one JSON file per run, written atomically."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import msgspec

from bench.io.errors import InputError
from bench.io.reading import MAX_RECORD_BYTES, gc_paused, parse_json, read_bytes, relative_message
from bench.io.typed_values import check_plain, decode_plain
from bench.io.writing import write_atomically

OUTSIDE_SIGNALS = ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR2")

Record = dict[str, Any]


def write_record(folder: Path, record: Record) -> Path:
    """Write a record as ``<folder>/<id>.json`` and return the path."""
    path = folder / f"{record['id']}.json"
    text = json.dumps(record, indent=1, allow_nan=False)
    write_atomically(path, text.encode())
    return path


def check_record(record: Any) -> None:
    """Raise InputError that names the first missing or invalid field."""
    from bench.records.schema import check_fields  # --help does without NumPy, which the schema needs

    check_plain(record, ("record",))
    check_fields(record)


def read_record(path: Path) -> Record:
    """Return the record in ``path``; raise a one-line InputError that names the file."""
    from bench.records.schema import check_fields

    try:
        content = read_bytes(path, MAX_RECORD_BYTES)
        if (record := decode_plain(content)) is not msgspec.UNSET:
            check_fields(record)
        else:
            record = parse_json(content, str(path), MAX_RECORD_BYTES, finite=True)
            check_record(record)
    except InputError as error:
        raise InputError(relative_message(error, path)) from None
    if path.stem != record["id"]:
        raise InputError(f"{path.name}: field 'id' is '{record['id']}', the file's name is another")
    return dict(record)


@dataclasses.dataclass(frozen=True)
class RecordFolder:
    """The readable records of a folder, sorted by id, and one line for each file that is not a record."""

    records: tuple[Record, ...]
    problems: tuple[str, ...]


def read_folder(folder: Path) -> RecordFolder:
    """Read every ``*.json`` of ``folder``. Truncated and foreign files are reported, never deleted."""
    names = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
    records, problems = [], []
    with gc_paused():
        for name in names:
            if name.endswith(".json"):
                try:
                    records.append(read_record(folder / name))
                except InputError as error:
                    problems.append(str(error))
    return RecordFolder(tuple(records), tuple(problems))


def dataset_settings(record: Record) -> dict[str, Any]:
    """Return a record's data set configuration, without the digests of the decoded frames."""
    return {name: value for name, value in record["dataset"].items() if name != "pictures_sha256"}


def was_killed(record: Record) -> bool:
    """Return whether an external signal ended the run's process."""
    failure = record.get("failure")
    return isinstance(failure, dict) and failure.get("signal") in OUTSIDE_SIGNALS
