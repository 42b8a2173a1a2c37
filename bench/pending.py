"""Which runs of a matrix are still to be done, and what killed ones left behind."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import InputError
from bench.record import Record, read_folder, read_record, remove_drafts

if TYPE_CHECKING:
    from bench.specification import RunSpecification
    from datasets.annotations import Dataset

OUTSIDE_SIGNALS = ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT")


def pending(
    specs: Sequence[RunSpecification], dataset: Dataset, records: Path, redo: str
) -> list[RunSpecification]:
    """Return the runs that still have to be run: those without a record, and those that ``redo`` names.

    A run whose process was killed from outside counts as cancelled.
    """
    from bench.specification import run_id

    status = {
        record["id"]: "cancelled" if was_killed(record) else record["status"]
        for record in read_folder(records).records
    }
    again = {
        "cancelled": ("cancelled",),
        "failed": tuple({*status.values()} - {"ok"}),
        "all": tuple(status.values()),
    }
    return [spec for spec in specs if status.get(run_id(spec, dataset)) in (None, *again[redo])]


def was_killed(record: Record) -> bool:
    """Say whether a signal that comes from outside ended the run's process."""
    failure = record.get("failure")
    return isinstance(failure, dict) and failure.get("signal") in OUTSIDE_SIGNALS


def clear_away(results: Path, specs: Sequence[RunSpecification], again: Collection[str]) -> None:
    """Remove what killed processes left: drafts, and checkpoints of runs that ended well.

    Runs whose ids are in ``again`` are about to be done once more and go on from theirs.
    """
    from datasets.miniature.config import default_cache_dir

    remove_drafts(results)
    for cache in {Path(spec.cache) if spec.cache else default_cache_dir() for spec in specs}:
        remove_drafts(cache / "encodings")
    for path in (results / "unfinished").glob("*.pt"):
        if path.stem in again:
            continue
        try:
            record = read_record(results / "records" / f"{path.stem}.json")
        except InputError:  # none, or none that is whole: the run is still to be done
            continue
        if record["status"] == "ok":
            path.unlink(missing_ok=True)
