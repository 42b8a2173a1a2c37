"""Tables of segments, one a row: CSV with commas, semicolons or bars, and TSV."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

from bench.io.errors import InputError
from bench.io.reading import reason
from bench.io.text import format_value
from datasets.annotations.imports.columns import NAMES, Columns, guess_columns, without_header
from datasets.annotations.imports.database import Database
from datasets.annotations.imports.times import ALLOWED, seconds_of

KIND = "table"
DELIMITERS = ("\t", ",", ";", "|")
TOLERANCE = 0.051
"""Seconds by which a length may differ from end - start: tables have rounded times."""
SHOWN_UNIT = {"s": "", "ms": " (milliseconds)", "frames": " (frames)"}


def read_table(content: bytes, database: Database) -> bool:
    """Add the rows of a table, and note which columns were taken; return False if it is none of segments.

    A row without times and label adds a video without instances. Frame numbers are counted from 0 and
    divided by the rate: that of the row's column `fps`, or of the options.
    """
    text = _decoded(content, database)
    first = text.lstrip().partition("\n")[0]
    for delimiter in sorted(DELIMITERS, key=lambda each: -first.count(each)):
        try:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            header = next((row for row in rows if any(cell.strip() for cell in row)), [])
            named = guess_columns(header)
            columns = named or without_header(header)
            if columns is None:
                continue
            first_row = [] if named else [(rows.line_num, header)]
            _read_rows([*first_row, *_filled(rows)], columns, database)
        except csv.Error as error:
            raise InputError(f"{database.file}: cannot be read as a table: {reason(error)}") from None
        names = ", ".join(
            f"{role.replace('_', ' ')} = {format_value(header[place]) if named else place + 1}"
            + SHOWN_UNIT.get(columns.units.get(role, ""), "")
            for role, place in sorted(columns.index.items(), key=lambda each: list(NAMES).index(each[0]))
        )
        database.notes.insert(0, f"{'columns taken' if named else 'no header, columns taken'}: {names}")
        return True
    return False


def is_segment_table(content: bytes) -> bool:
    """Return whether a table's first row names columns of segments, or has the values of one."""
    first = content.decode("utf-8-sig", "replace").lstrip().partition("\n")[0]
    cells = (first.rstrip("\r").replace('"', "").split(each) for each in DELIMITERS)
    return any(guess_columns(each) or without_header(each) for each in cells)


def known_names() -> str:
    """Return the names of columns that are known, for a message."""
    return "; ".join(
        f"{role}: {', '.join(NAMES[role][:4])}, ..." for role in ("video", "start", "end", "label")
    )


def _decoded(content: bytes, database: Database) -> str:
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # as Excel writes "Unicode text"
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{database.file}: not text in UTF-8") from None


def _filled(rows: Any) -> Iterator[tuple[int, list[str]]]:
    for row in rows:
        if any(cell.strip() for cell in row):
            yield rows.line_num, row


def _read_rows(rows: Sequence[tuple[int, list[str]]], columns: Columns, database: Database) -> None:
    kept: list[tuple[str, float, float, float | None]] = []
    for line, row in rows:
        cells = {role: row[place].strip() for role, place in columns.index.items() if place < len(row)}
        where = f"line {line}"
        name, label = cells.get("video", ""), cells.get("label", "")
        total = _time(cells, "video_length", columns, database, where)
        found = database.video(name, f"{where}: video", cells.get("subset") or None, total)
        start = _time(cells, "start", columns, database, where)
        end, length = (_time(cells, role, columns, database, where) for role in ("end", "length"))
        if not label and start is None and end is None:
            continue
        if end is None and start is not None and length is not None:
            end = start + length
        for role, value in (("start", start), ("end", end), ("label", label)):
            if value is None or value == "":
                database.fail(f"{where}: {role}", "missing")
        assert start is not None
        assert end is not None
        found.append({"segment": [start, end], "label": label})
        kept.append((name, start, end, length))
    if "end" in columns.index and "length" in columns.index:
        _take_durations(kept, database)


def _take_durations(rows: Sequence[tuple[str, float, float, float | None]], database: Database) -> None:
    """Use a column `duration` beside start and end: the video's if one value that no end exceeds."""
    if all(length is None or abs(end - start - length) <= TOLERANCE for _, start, end, length in rows):
        return
    durations: dict[str, set[float]] = {}
    for name, _, end, length in rows:
        known = durations.setdefault(name, set())
        known.add(math.nan if length is None or end > length + 0.5 else length)
    if any(len(known) > 1 or math.isnan(next(iter(known))) for known in durations.values()):
        database.notes.append(
            "the column of durations is not read: it is neither end - start nor the video's"
        )
        return
    for name, known in durations.items():
        database.video(name, "duration", duration=known.pop())


def _time(cells: dict[str, str], role: str, columns: Columns, database: Database, where: str) -> float | None:
    """Return the seconds in a cell; None if it is empty."""
    text = cells.get(role, "")
    if not text:
        return None
    value = seconds_of(text)
    if value is None:
        database.fail(f"{where}: {role}", f"got {format_value(text)}, allowed are {ALLOWED}")
    unit = columns.units[role]
    if unit == "ms" and ":" not in text:
        return value / 1000
    if unit == "frames":
        own = cells.get("fps")
        rate = database.number(own, f"{where}: fps", "a number of frames per second") if own else None
        if rate is not None and rate <= 0:
            database.fail(f"{where}: fps", f"got {rate:g}, more than 0 is needed")
        return value / database.rate(rate)
    return value
