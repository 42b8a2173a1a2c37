"""Read and check forecasts written by ``python -m bench.plan --json``, and format them as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bench.config.protocol import MODES
from bench.io.errors import InputError
from bench.io.reading import MAX_RECORD_BYTES, read_json, relative_message
from bench.io.tables import comma_separated, markdown
from bench.io.text import MAX_NAME_LENGTH, printable
from bench.io.typed_values import Name, Positive, Whole, check_plain, structure
from bench.memory.constants import KINDS

GIGABYTE = 1e9
TITLE = "Predicted memory of a training step and of inference"
PREFACE = (
    "Forecasts of `python -m bench.plan`, not measurements. Peak: the most bytes alive at once in training; "
    "reserved: what PyTorch's caching allocator takes for that; kinds as they are at the peak. "
    "1 GB is 10^9 bytes."
)
SIZES = ("vit-t", "vit-s", "vit-b", "vit-l", "vit-h", "vit-g")
"""Models sorted by total parameters; other models follow by name."""
FIXED = ("model", "frames", "image_size", "batch_size", "precision", "device")
"""The fields of a configuration that do not depend on the strategy."""


Word = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9][A-Za-z0-9._+-]{0,59}\Z",
        description="text of 1 to 60 letters, digits and ., _, +, -",
    ),
]


class Inference(msgspec.Struct):
    """The predicted peak of inference."""

    predicted_peak_bytes: Positive


class Row(msgspec.Struct):
    """A row as in its file: plain values; further fields are allowed."""

    model: Word
    strategy: Word
    settings: dict[str, Any]
    backward: Annotated[
        str, Meta(pattern=rf"\A({'|'.join(MODES)})\Z", description=f"one of {', '.join(MODES)}")
    ]
    frames: Positive
    clips: Positive
    image_size: Positive
    batch_size: Positive
    precision: Word
    device: Word
    predicted_peak_bytes: Positive
    kinds: dict[str, Whole]
    phases: dict[str, Whole]
    processes: Whole = 1
    sharded: bool = False
    predicted_reserved_bytes: Whole | None = None
    inference: Inference | None = None
    timeline: list[tuple[Name, Whole]] | None = None


def in_order(value: Any) -> tuple[int, Any]:
    """Return the sort key of a model, small to large, or of a number."""
    return (SIZES.index(value) if value in SIZES else len(SIZES), value)


@dataclasses.dataclass(frozen=True)
class Forecast:
    """One row: the configuration of a training step, and its predicted bytes."""

    model: str
    strategy: str
    settings: tuple[tuple[str, str], ...]
    backward: str
    frames: int
    clips: int
    image_size: int
    batch_size: int
    precision: str
    device: str
    """Device of each process; with several processes also their number, and whether blocks are sharded."""
    peak_bytes: int
    reserved_bytes: int | None
    kinds: tuple[tuple[str, int], ...]
    """Bytes of each kind at the peak."""
    phases: tuple[tuple[str, int], ...]
    """Peak bytes of each phase."""
    timeline: tuple[tuple[str, int], ...] = ()
    inference_bytes: int | None = None
    """Peak of inference; None in rows of earlier versions."""

    @property
    def label(self) -> str:
        """The strategy, with the settings that differ from the defaults."""
        changed = ", ".join(f"{name}={value}" for name, value in self.settings)
        return f"{self.strategy} ({changed})" if changed else self.strategy

    @property
    def key(self) -> tuple[Any, ...]:
        """The row's configuration, as sort key in the order of the table."""
        work = (self.device, self.precision, self.batch_size, self.image_size, self.frames)
        how = (self.strategy != "head-only", self.label, MODES.index(self.backward))
        return (*in_order(self.model), *work, *how)


def read_forecasts(folder: Path) -> tuple[list[Forecast], list[str]]:
    """Return the sorted unique rows of all ``*.json`` in ``folder``, and a line for each invalid file or row.

    Of rows with the same configuration, one with a timeline is kept; different predictions are reported.
    """
    rows: dict[tuple[Any, ...], Forecast] = {}
    problems = []
    for path in sorted(folder.glob("*.json")):
        try:
            document = read_json(path, MAX_RECORD_BYTES, finite=True)
            if not isinstance(document, list):
                raise InputError("a list of rows is expected, as bench.plan --json writes it")
        except InputError as error:
            problems.append(relative_message(error, path))
            continue
        for number, entry in enumerate(document):
            try:
                row = parse(entry)
            except InputError as error:
                problems.append(printable(f"{path.name}: row {number}: {error}"))
                continue
            known = rows.setdefault(row.key, row)
            if known.peak_bytes != row.peak_bytes:
                problems.append(
                    f"{path.name}: row {number}: field 'predicted_peak_bytes' is {row.peak_bytes}, "
                    f"another row about the same has {known.peak_bytes}"
                )
            elif row.timeline and not known.timeline:
                rows[row.key] = row
    return [rows[key] for key in sorted(rows)], problems


def parse(entry: Any) -> Forecast:
    """Return a row; raise InputError that names the missing or invalid field."""
    if not isinstance(entry, dict):
        raise InputError("an object is expected")
    check_plain(entry, ("row",))
    row: Row = structure(Row, entry)
    several = f"{row.processes} x {row.device}" if row.processes > 1 else row.device
    return Forecast(
        row.model,
        row.strategy,
        tuple(sorted((name, printable(str(value), MAX_NAME_LENGTH)) for name, value in row.settings.items())),
        row.backward,
        row.frames,
        row.clips,
        row.image_size,
        row.batch_size,
        row.precision,
        f"{several}, sharded" if row.sharded else several,
        row.predicted_peak_bytes,
        row.predicted_reserved_bytes,
        tuple(row.kinds.items()),
        tuple(row.phases.items()),
        tuple(row.timeline or ()),
        row.inference.predicted_peak_bytes if row.inference else None,
    )


def gigabytes(size: int | None) -> str:
    """Return bytes in units of 10^9 as text; empty for None."""
    return "" if size is None else f"{size / GIGABYTE:.3f}"


def words(names: Sequence[str], values: Sequence[Any], between: str) -> str:
    """Return a configuration as text with units."""
    units = {"frames": "{} frames", "image_size": "{} px", "batch_size": "batch {}"}
    return between.join(units.get(n, "{}").format(v) for n, v in zip(names, values, strict=True))


def cells(rows: Iterable[Forecast]) -> tuple[list[str], list[list[str]]]:
    header = ["model", "strategy", "backward", "frames", "size (px)", "batch", "precision", "device"]
    header += [
        "predicted peak (GB)",
        "predicted reserved (GB)",
        *(f"predicted {kind} (GB)" for kind in KINDS),
        "predicted inference peak (GB)",
    ]
    lines = []
    for row in rows:
        kinds = dict(row.kinds)
        sizes = [row.peak_bytes, row.reserved_bytes, *(kinds.get(kind, 0) for kind in KINDS)]
        sizes.append(row.inference_bytes)
        what = [row.model, row.label, row.backward, str(row.frames), str(row.image_size)]
        what += [str(row.batch_size), row.precision, row.device]
        lines.append([*what, *map(gigabytes, sizes)])
    return header, lines


def forecasts_csv(rows: Iterable[Forecast]) -> str:
    """Return the rows as CSV."""
    return comma_separated(*cells(rows))


def forecasts_markdown(rows: Iterable[Forecast]) -> str:
    """Return the rows as markdown, with a title that marks them as predicted."""
    return f"# {TITLE}\n\n{PREFACE}\n\n{markdown(*cells(rows), text_columns=3)}\n"
