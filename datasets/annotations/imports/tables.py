"""Tables of segments, one a row: CSV with commas, semicolons or bars, and TSV."""

import csv
import io
import math
import re
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
FIRST_LINE = re.compile(r"([^\r\n]*)(\r\n|\r|\n|$)")
SEPARATOR = re.compile(r'"?sep=([\t,;|])"?', re.IGNORECASE)
"""A first line with which Excel is told the delimiter."""
TOLERANCE = 0.051
"""Seconds by which a length may differ from end - start: tables have rounded times."""
SHOWN_UNIT = {"s": "", "ms": " (milliseconds)", "frames": " (frames)"}


def read_table(content: bytes, database: Database) -> bool:
    """Add the rows of a table, and note which columns were taken; return False if it is none of segments.

    A row without times and label adds a video without instances. Frame numbers are counted from 0 and
    divided by the rate: that of the row's column `fps`, or of the options.
    """
    text = _decoded(content)
    if text is None:
        raise InputError(f"{database.file}: not text in UTF-8")
    text, delimiters, above = _from_header(text)
    for delimiter in delimiters:
        try:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            header = next((row for row in rows if any(cell.strip() for cell in row)), [])
            named = guess_columns(header)
            columns = named or without_header(header)
            if columns is None:
                continue
            if columns.parts:
                both = " and ".join(map(format_value, columns.parts))
                database.fail("columns", f"{both}: a time is needed in one column, as {ALLOWED}")
            first_row = [] if named else [(rows.line_num, header)]
            lines = [(above + line, row) for line, row in (*first_row, *_filled(rows))]
            _check_width(lines, header, delimiter, database)
            _read_rows(lines, columns, database)
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
    text, delimiters, _ = _from_header(_decoded(content) or content.decode("utf-8-sig", "replace"))
    cells = [_cells(text, each) for each in delimiters]
    return any(guess_columns(each) or without_header(each) for each in cells)


def column_names(content: bytes) -> str:
    """Return the names of columns that are known and those in a table's header, for a message."""
    known = "; ".join(
        f"{role}: {', '.join(NAMES[role][:4])}, ..." for role in ("video", "start", "end", "label")
    )
    text, delimiters, _ = _from_header(_decoded(content) or "")
    found = ", ".join(format_value(cell) for cell in _cells(text, delimiters[0])[:20])
    return f"Known names of columns are {known}; the file's first line has {found or 'none'}"


def _decoded(content: bytes) -> str | None:
    """Return a table's text, None if it is not in UTF-8 or UTF-16."""
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # as Excel writes "Unicode text"
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        return None


def _cells(text: str, delimiter: str) -> list[str]:
    """Return the cells of a text's first line."""
    return [cell.strip() for cell in _first(text)[0].replace('"', "").split(delimiter)]


def _first(text: str) -> tuple[str, int]:
    """Return the first line, and where the next one begins."""
    found = FIRST_LINE.match(text)
    return (found[1], found.end()) if found else ("", len(text))


def _from_header(text: str) -> tuple[str, Sequence[str], int]:
    """Return a text from its header on, the delimiters to try, and the number of lines above.

    Left out are empty lines, Excel's `sep=;` and comments, which begin with `#`; a header may do so too.
    """
    above, named = 0, ""
    while text:
        line, end = _first(text)
        plain = line.strip().lstrip('"')
        if found := SEPARATOR.fullmatch(line):
            named = found[1]
        elif plain.startswith("#") and any(guess_columns(_cells(plain[1:], each)) for each in DELIMITERS):
            text = text.replace("#", "", 1)
            break
        elif plain and not plain.startswith("#"):
            break
        text, above = text[end:], above + 1
    first = _first(text)[0]
    return text, named or sorted(DELIMITERS, key=lambda each: -first.count(each)), above


def _filled(rows: Any) -> Iterator[tuple[int, list[str]]]:
    for row in rows:
        if any(cell.strip() for cell in row):
            yield rows.line_num, row


def _check_width(
    rows: Sequence[tuple[int, list[str]]], header: Sequence[str], delimiter: str, database: Database
) -> None:
    """Refuse rows with more cells than the header: a decimal comma without quotes moves the others."""
    width = max(place for place, name in enumerate(header, start=1) if name.strip())
    for line, row in rows:
        if any(cell.strip() for cell in row[width:]):
            problem = f"{len(row)} cells, the first line has {width}: a cell with {delimiter!r} needs quotes"
            database.fail(f"line {line}", problem)


def _read_rows(rows: Sequence[tuple[int, list[str]]], columns: Columns, database: Database) -> None:
    kept: list[tuple[str, float, float, float | None]] = []
    for line, row in rows:
        cells = {role: row[place].strip() for role, place in columns.index.items() if place < len(row)}
        where = f"line {line}"
        name, label = cells.get("video", ""), cells.get("label", "")
        subset = cells.get("subset") or None
        database.video(name, f"{where}: video", subset)
        _take_rate(cells, columns, database)
        total = _time(cells, "video_length", columns, database, where)
        found = database.video(name, f"{where}: video", subset, total)
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
    if ":" in text:
        if unit == "frames" and role in ("start", "end"):
            database.fail(f"{where}: {role}", f"got {format_value(text)}, a frame number is needed")
        return value
    if unit == "ms":
        return value / 1000
    if unit == "frames":
        own = cells.get("fps")
        rate = database.number(own, f"{where}: fps", "a number of frames per second") if own else None
        if rate is not None and rate <= 0:
            database.fail(f"{where}: fps", f"got {rate:g}, more than 0 is needed")
        return value / database.rate(cells.get("video", ""), rate)
    return value


def _take_rate(cells: dict[str, str], columns: Columns, database: Database) -> None:
    """Store the rate of a table in seconds, which needs none: a cell that is no number is left."""
    try:
        rate = float(cells.get("fps", ""))
    except ValueError:
        return
    if columns.units["start"] != "frames" and 0 < rate < math.inf:
        database.take_rate(cells.get("video", ""), rate)
