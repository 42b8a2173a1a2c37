"""Forecasts beside memory that others published: the rows of ``results/anchors``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bench.io.errors import InputError
from bench.io.reading import MAX_RECORD_BYTES, read_json, relative_message
from bench.io.tables import comma_separated, markdown
from bench.io.typed_values import Label, Name, Positive, Text, check_plain, structure

TITLE = "Forecasts beside published memory"
PREFACE = (
    "Published: a figure of others, as printed and in MiB of 2^20 bytes. Predicted: traced without a GPU "
    "from the configuration that is named below; nothing here was measured by this project. Error: what the "
    "prediction is off the published figure. Missing: published minus predicted; it includes cuDNN's "
    "workspaces, which no forecast counts. Meter: allocated is the largest torch.cuda.max_memory_allocated "
    "of a training log; stated is a figure whose meter is not named, so that the allocator's reserved bytes "
    "stand beside it as well. Grade: code, if configuration and code are public; parts, if some settings "
    "are not; description, if there is only the text of a paper or of a third party. Kind: forecast, if the "
    "configuration was written down from its source before; revised, if something in it was corrected after "
    "a forecast of the same figure, from a source that is named; fitted, if something was chosen after it "
    "that no source says, which is no evidence that forecasts are right."
)
KINDS = ("forecast", "revised", "fitted")
GRADES = ("code", "parts", "description")
METERS = ("allocated", "stated")
MEBIBYTE = 2**20


class AnchorForecast(msgspec.Struct, forbid_unknown_fields=True):
    """Predicted bytes, and what predicted them."""

    allocated_bytes: Positive
    reserved_bytes: Positive | None
    torch: Name
    commit: Label


class Anchor(msgspec.Struct, forbid_unknown_fields=True):
    """A row as in its file."""

    title: Name
    source: Name
    url: Text
    place: Text
    quantity: Annotated[Literal["allocated", "stated"], Meta(description=f"one of {', '.join(METERS)}")]
    published: Name
    published_bytes: Positive
    grade: Annotated[Literal["code", "parts", "description"], Meta(description=f"one of {', '.join(GRADES)}")]
    configuration: Text
    unknown: Text
    kind: Annotated[Literal["forecast", "revised", "fitted"], Meta(description=f"one of {', '.join(KINDS)}")]
    changed: Text
    """What was corrected or chosen after a forecast of the same figure; empty if nothing was."""
    forecast: AnchorForecast

    @property
    def error(self) -> float:
        """What the predicted allocated bytes are off the published ones, in percent."""
        return 100 * (self.forecast.allocated_bytes / self.published_bytes - 1)


def read_anchors(folder: Path) -> tuple[list[Anchor], list[str]]:
    """Return the rows of ``folder`` by file name, and a line for each invalid file."""
    rows, problems = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            rows.append(parse(read_json(path, MAX_RECORD_BYTES, finite=True)))
        except InputError as error:
            problems.append(relative_message(error, path))
    return rows, problems


def parse(entry: Any) -> Anchor:
    """Return a row; raise InputError that names the missing or invalid field."""
    check_plain(entry, ("row",))
    row: Anchor = structure(Anchor, entry)
    return row


HEADER = (
    *("figure", "kind", "meter", "grade", "published", "published (MiB)", "predicted allocated (MiB)"),
    *("error (%)", "missing (MiB)", "predicted reserved (MiB)", "error of reserved (%)"),
)
REMARKS = ("configuration", "unknown", "what was changed", "source", "url", "place", "torch", "commit")


def cells(rows: Sequence[Anchor]) -> tuple[list[str], list[list[str]]]:
    """Return header and text cells: the figures."""
    return [*HEADER], [_figures(row) for row in rows]


def _figures(row: Anchor) -> list[str]:
    forecast, published = row.forecast, row.published_bytes
    line = [row.title, row.kind, row.quantity, row.grade, row.published]
    line += [f"{size / MEBIBYTE:.0f}" for size in (published, forecast.allocated_bytes)]
    line += [f"{row.error:+.2f}", f"{(published - forecast.allocated_bytes) / MEBIBYTE:.0f}"]
    if row.quantity == "allocated" or forecast.reserved_bytes is None:
        return [*line, "", ""]
    reserved = forecast.reserved_bytes
    return [*line, f"{reserved / MEBIBYTE:.0f}", f"{100 * (reserved / published - 1):+.2f}"]


def _remarks(row: Anchor) -> list[str]:
    forecast = row.forecast
    texts = (row.configuration, row.unknown, row.changed, row.source, row.url, row.place)
    return [*texts, forecast.torch, forecast.commit]


def contents(rows: Sequence[Anchor]) -> dict[str, str]:
    """Return the tables by file name; empty without rows."""
    if not rows:
        return {}
    header, lines = cells(rows)
    everything = [[*line, *_remarks(row)] for line, row in zip(lines, rows, strict=True)]
    details = [[row.title, row.kind, *_remarks(row)] for row in rows]
    remarks = markdown(["figure", "kind", *REMARKS], details, text_columns=2 + len(REMARKS))
    figures = markdown(header, lines, text_columns=5)
    return {
        "forecast_anchors.csv": comma_separated([*header, *REMARKS], everything),
        "forecast_anchors.md": f"# {TITLE}\n\n{PREFACE}\n\n{figures}\n\n## What was forecast\n\n{remarks}\n",
    }
