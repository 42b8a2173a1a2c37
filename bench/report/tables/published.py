"""Tables of published and measured numbers, compared only for equal data sets and tIoU thresholds."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.io import PROJECT_ROOT
from bench.io.errors import InputError
from bench.io.reading import read_text, relative_message
from bench.io.tables import Cells, bold_best, comma_separated, escape_markdown, latex, markdown
from bench.report.analysis.differences import BASELINE, default_settings
from bench.report.grouping import Comparison, Row, at_tiou, average, megabytes
from datasets.cards.cards import read_card

SHIPPED = PROJECT_ROOT / "results" / "published"
ID_COLUMNS = ("method", "backbone", "dataset", "protocol")
SOURCE = ("memory", "source", "grade", "note")
GRADES = ("read", "copied", "log")
LAST = "last"
EPOCHS = ("", LAST, "best on test")
"""Which epoch a row reports, in the optional column ``epoch``; empty: not known."""
MEASURABLE = {"THUMOS-14": "thumos14", "ActivityNet-1.3": "activitynet13", "HACS-1.1": "hacs"}
"""Names of data sets in papers, and their names here."""
PREFACE = (
    "mAP in percent. Kind: published by others, or measured here on the same data set at the same "
    "thresholds; protocols differ. Grade: read at the source, copied by a later paper, or from a public "
    "training log. Epoch: the one that the authors report; the best on the test videos is higher than the "
    "last. Empty: not published."
)
TITLES = {
    "losa": "LoSA and head-only training on the same backbone",
    "lofi_t1_pretraining": "LoFi, table 1: pre-training",
    "lofi_t2_configurations": "LoFi, table 2: configurations",
    "lofi_t3_t4_systems": "LoFi, tables 3 and 4: systems",
    "lofi_t5_t6_encoders": "LoFi, tables 5 and 6: encoders",
    "lofi_t7_self_supervised": "LoFi, table 7: self-supervised pre-training",
    "adatad": "AdaTAD",
    "landscape": "Ways to adapt a backbone",
}


@dataclasses.dataclass(frozen=True)
class Published:
    """One table; each row maps column names to text, which is empty where nothing was published."""

    name: str
    header: tuple[str, ...]
    rows: tuple[dict[str, str], ...]

    @property
    def title(self) -> str:
        return TITLES.get(self.name, self.name)


def read_published(folder: Path, comparisons: Sequence[Comparison]) -> list[Published]:
    """Return the tables of ``folder`` by name; if there are none, the shipped ones with measured rows.

    Raises InputError for an invalid file.
    """
    if paths := sorted(folder.glob("*.csv")):
        return [read_table(path) for path in paths]
    tables = [read_table(path) for path in sorted(SHIPPED.glob("*.csv"))]
    return [
        table
        for table in tables
        if any(kind == "measured" for part in sections(table, comparisons) for kind, _ in part.rows)
    ]


def read_table(path: Path) -> Published:
    """Return one table; raise InputError that names the file, the line and the field."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
        rows = list(reader)
        header = tuple(reader.fieldnames or ())
    except InputError as error:
        raise InputError(relative_message(error, path)) from None
    except csv.Error as error:
        raise InputError(f"{path.name}: {error}") from None
    if missing := [name for name in (*ID_COLUMNS, "average mAP", *SOURCE) if name not in header]:
        raise InputError(f"{path.name}: column '{missing[0]}' is missing")
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise InputError(f"{path.name}: line {line} has not {len(header)} fields")
        if row["grade"] not in GRADES:
            raise InputError(
                f"{path.name}: line {line}: field 'grade' is {row['grade'][:40]!r}, allowed: {GRADES}"
            )
        if row.get("epoch", "") not in EPOCHS:
            raise InputError(
                f"{path.name}: line {line}: field 'epoch' is {row['epoch'][:40]!r}, allowed: {EPOCHS}"
            )
        for name in header:
            if "mAP" in name and row[name]:
                _check_number(path, line, name, row[name])
    return Published(path.stem, header, tuple(rows))


def _check_number(path: Path, line: int, name: str, text: str) -> None:
    try:
        good = 0 <= float(text) <= 100
    except ValueError:
        good = False
    if not good:
        raise InputError(f"{path.name}: line {line}: field '{name}' is {text[:40]!r}, allowed is 0 to 100")


def measured_rows(
    comparisons: Sequence[Comparison], dataset: str, header: Sequence[str]
) -> list[dict[str, str]]:
    """Return the measured rows on a data set, as rows of a published table.

    Rows evaluated on another subset, on part of the videos, or at other thresholds than in papers are left
    out.
    """
    if dataset not in MEASURABLE:
        return []
    card = read_card(MEASURABLE[dataset])
    return [
        _measured(comparison, row, dataset, header)
        for comparison in comparisons
        if comparison.dataset == card.name
        and comparison.variant in {variant.name for variant in card.variants}
        and comparison.tious == tuple(f"{tiou:g}" for tiou in card.tiou)
        for row in comparison.rows
        if row.finished and row.finished[0]["protocol"]["evaluation_subset"] == card.subsets["test"]
    ]


def is_default(comparison: Comparison, row: Row) -> bool:
    """Return whether a row represents its strategy: the only row, or the one with default settings."""
    if sum(other.strategy == row.strategy for other in comparison.rows) == 1:
        return True
    return bool(row.records[0]["strategy"] == default_settings(row.strategy))


LOFI_AND_BASELINE = (BASELINE, "lofi", "lofi-added")
MINIATURE = "miniature (generated; measured here only)"
ROW_FILTERS: Mapping[str, Callable[[Comparison, Row], bool]] = {
    "losa": is_default,
    "adatad": is_default,
    "landscape": is_default,
    "lofi_t3_t4_systems": is_default,
    "lofi_t1_pretraining": lambda item, row: row.strategy in LOFI_AND_BASELINE and is_default(item, row),
    "lofi_t2_configurations": lambda item, row: row.strategy in LOFI_AND_BASELINE,
    "lofi_t5_t6_encoders": lambda item, row: (
        row.strategy == BASELINE or row.records[0]["strategy"].get("variant") == "t"
    ),
}
"""Selects the rows on the embedded data set that correspond to a published table, so that every table can be
built on any machine. LoFi's table 7 is left out, as no run here is self-supervised."""


def miniature_rows(table: Published, comparisons: Sequence[Comparison]) -> list[dict[str, str]]:
    """Return the measured rows on the embedded data set that correspond to a table, as rows of that table."""
    wanted = ROW_FILTERS.get(table.name)
    if wanted is None:
        return []
    return [
        _measured(comparison, row, MINIATURE, table.header)
        for comparison in comparisons
        if comparison.dataset == "miniature"
        and (comparison.weights != "random" or table.name == "lofi_t1_pretraining")
        for row in comparison.rows
        if row.finished
        and wanted(comparison, row)
        and row.finished[0]["protocol"]["evaluation_subset"] == "testing"
    ]


def _measured(comparison: Comparison, row: Row, dataset: str, header: Sequence[str]) -> dict[str, str]:
    line = dict.fromkeys(header, "")
    line |= {"method": row.label, "backbone": comparison.model, "dataset": dataset, "source": "this bench"}
    line["protocol"] = f"variant {comparison.variant}; protocol {comparison.digest[:8]}; {comparison.device}"
    if comparison.pictures:
        line["protocol"] += f"; pictures {comparison.pictures}"
    if comparison.classifier:
        line["protocol"] += f"; classes by {comparison.classifier}"
    for column in header:
        if column.startswith("mAP@") and column[4:] in comparison.tious:
            line[column] = f"{statistics.fmean(row.values(at_tiou(column[4:]))):.2f}"
    if "epoch" in header:
        line["epoch"] = LAST
    averages = row.values(average)
    if comparison.weights == "random":
        line["method"] += ", not pre-trained"
    line["average mAP"] = f"{statistics.fmean(averages):.2f}"
    peak = max(row.values(megabytes))
    line["memory"] = f"{peak:.1f} MB"
    spread = f", standard deviation {statistics.stdev(averages):.2f}" if len(averages) > 1 else ""
    thresholds = f"average over {comparison.tious[0]} to {comparison.tious[-1]}"
    line["note"] = f"mean of n = {len(row.finished)}{spread}; {thresholds}"
    return line


def contents(tables: Sequence[Published], comparisons: Sequence[Comparison]) -> dict[str, str]:
    """Return the text of every ``published_*`` file by its name: markdown, CSV and LaTeX."""
    result = {}
    for table in tables:
        parts, texts, everything = [f"# {escape_markdown(table.title)}\n\n{PREFACE}"], [], []
        for name, header, lines, rows in sections(table, comparisons):
            best = _best(header, lines)
            parts.append(f"## {escape_markdown(name)}\n\n{markdown(header, lines, 4, best)}")
            texts.append(latex(header, lines, f"{table.title}: {name}.", 4, best))
            everything += [[kind, *(row[column] for column in table.header)] for kind, row in rows]
        result[f"published_{table.name}.csv"] = comma_separated(["kind", *table.header], everything)
        result[f"published_{table.name}.md"] = "\n\n".join(parts) + "\n"
        result[f"published_{table.name}.tex"] = "\n".join(texts)
    return result


def _best(header: Sequence[str], lines: Sequence[Sequence[str]]) -> Cells:
    """Return the cells with the best mAP of each column, separately for published and measured rows."""
    columns = [name for name in header if "mAP" in name]
    kinds = [[i for i, line in enumerate(lines) if line[0] == kind] for kind in ("published", "measured")]
    return bold_best(header, lines, columns, kinds[0]) | bold_best(header, lines, columns, kinds[1])


class DatasetSection(NamedTuple):
    """The rows on one data set: text cells without empty columns, and complete rows with their kind."""

    name: str
    header: list[str]
    lines: list[list[str]]
    rows: list[tuple[str, dict[str, str]]]


def sections(table: Published, comparisons: Sequence[Comparison]) -> list[DatasetSection]:
    """Return a table's rows by data set, with the published rows before the measured ones."""
    names = dict.fromkeys(row["dataset"] for row in table.rows)
    parts = [_section(table, name, measured_rows(comparisons, name, table.header)) for name in names]
    if own := miniature_rows(table, comparisons):
        parts.append(_section(table, MINIATURE, own))
    return parts


def _section(table: Published, dataset: str, measured: Sequence[dict[str, str]]) -> DatasetSection:
    rows = [("published", row) for row in table.rows if row["dataset"] == dataset]
    rows += [("measured", row) for row in measured]
    used = [
        name
        for name in table.header
        if name != "dataset" and (name in ID_COLUMNS or any(row[name] for _, row in rows))
    ]
    # The kind is the first column, next to the method, so that it is always read with the row.
    header = ["kind", *used]
    lines = [[kind, *(row[name] for name in used)] for kind, row in rows]
    return DatasetSection(dataset or "data set not stated", header, lines, rows)
