"""Run records: one JSON file a run, written whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.bounded_reading import LARGEST_NOTE, by_name, nothing_collected, parse_json, read_bytes
from bench.errors import InputError
from bench.plain_values import check_plain, usual_values

SCHEMA = 1
STATUSES = ("ok", "out-of-memory", "nan", "timeout", "error", "cancelled")
Record = dict[str, Any]


DRAFT = re.compile(r"\.(.*)\.([A-Za-z0-9-]*)\.(\d+)\.draft")
FORGOTTEN_SECONDS = 24 * 3600
"""After that a draft of another machine's process is taken for one that nobody writes any more."""


def machine() -> str:
    """Return this machine's name, of letters, digits and dashes alone."""
    return re.sub("[^A-Za-z0-9-]", "-", platform.node())


def draft_path(path: Path) -> Path:
    """Return the hidden name beside ``path`` under which this process writes what is to become ``path``."""
    return path.with_name(f".{path.name}.{machine()}.{os.getpid()}.draft")


def remove_drafts(folder: Path, in_use: Callable[[str], bool] = lambda name: False) -> int:
    """Remove the drafts below ``folder`` whose processes are gone, however they went; return how many.

    ``in_use`` says of the name of a file that is to be whether somebody may be writing it all the same:
    what looks gone from here may live in a container of the same name.
    """
    removed = 0
    for path in folder.rglob(".*.draft"):
        if (found := DRAFT.fullmatch(path.name)) is None:
            continue
        with contextlib.suppress(OSError):  # somebody else removed it, or it is not ours to remove
            if found[2] == machine():
                left = not process_runs(int(found[3]))
            else:
                left = time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS
            if left and not in_use(found[1]):
                path.unlink()
                removed += 1
    return removed


def process_runs(process: int) -> bool:
    """Say whether this machine has a process of that id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a draft beside ``path`` that takes its place, whole, when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_path(path)
    try:
        # Made anew: who knows the name beforehand may have put a link there that leads elsewhere.
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to a draft beside ``path`` and rename it, so that no reader sees half of it."""
    with replacing(path) as draft:
        draft.write_bytes(content)


def write_record(folder: Path, record: Record) -> Path:
    """Write a record as ``<folder>/<id>.json`` and return the path."""
    path = folder / f"{record['id']}.json"
    text = json.dumps(record, indent=1, allow_nan=False)
    write_atomically(path, text.encode())
    return path


def check_record(record: Any) -> None:
    """Raise InputError that names the first field which is missing or wrong."""
    from bench.record_fields import check_fields

    check_plain(record, ("record",))
    check_fields(record)


def read_record(path: Path) -> Record:
    """Return the record in ``path``; raise InputError with one line that names the file."""
    from bench.record_fields import check_fields

    try:
        content = read_bytes(path, LARGEST_NOTE)
        if (record := usual_values(content)) is not msgspec.UNSET:
            check_fields(record)
        else:
            record = parse_json(content, str(path), LARGEST_NOTE, finite=True)
            check_record(record)
    except InputError as error:
        raise InputError(by_name(error, path)) from None
    if path.stem != record["id"]:
        raise InputError(f"{path.name}: field 'id' is '{record['id']}', the file's name is another")
    return dict(record)


@dataclasses.dataclass(frozen=True)
class RecordFolder:
    """The readable records of a folder, sorted by id, and one line for each file that is none."""

    records: tuple[Record, ...]
    problems: tuple[str, ...]


def read_folder(folder: Path) -> RecordFolder:
    """Read every ``*.json`` of ``folder``. Half-written and foreign files are named, never deleted."""
    records, problems = [], []
    with nothing_collected():
        for path in sorted(folder.glob("*.json")):
            try:
                records.append(read_record(path))
            except InputError as error:
                problems.append(str(error))
    return RecordFolder(tuple(records), tuple(problems))


def dataset_settings(record: Record) -> dict[str, Any]:
    """Return what a run was told of its data: all but the pictures, which it found there."""
    return {name: value for name, value in record["dataset"].items() if name != "pictures_sha256"}


def detections_path(results: Path, identifier: str) -> Path:
    """Return where a run's detections lie."""
    return results / "detections" / f"{identifier}.json.gz"


def checkpoint_path(results: Path, identifier: str) -> Path:
    """Return where the weights of a run lie that was asked to keep them."""
    return results / "checkpoints" / f"{identifier}.safetensors"


def unfinished_path(results: Path, identifier: str) -> Path:
    """Return where the checkpoint of a run lies that has not ended well yet."""
    return results / "unfinished" / f"{identifier}.pt"


def ground_truth_path(results: Path, record: Record) -> Path:
    """Return where the ground truth that a run was evaluated against lies."""
    subset = re.sub(r"[^A-Za-z0-9.-]+", "-", record["protocol"]["evaluation_subset"])
    return results / "ground_truth" / f"{record['dataset']['annotation_sha256'][:12]}_{subset}.json.gz"
