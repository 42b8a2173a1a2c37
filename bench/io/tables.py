"""Tables of text cells as markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from bench.io.text import printable

Lines = Sequence[Sequence[str]]

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "±": r"$\pm$",
    "²": "$^2$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "†": r"$\dagger$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
}


MARKDOWN = {"|": "\\|", "<": "&lt;", **{sign: f"\\{sign}" for sign in "\\`"}}
MAX_NUMBERS_LENGTH = 60
FORMULA = ("=", "+", "-", "@")
NUMBERS = re.compile(r"NUMBER( (to |± )?NUMBER)*".replace("NUMBER", r"[+-]?(\d[\d,]*)?\.?\d+(e[+-]?\d+)?"))
"""Cells that may begin with a sign: a number, an interval of two, or several numbers."""
Cells = frozenset[tuple[int, int]]
"""Row and column indices of cells."""
NONE: Cells = frozenset()


def bold_best(
    header: Sequence[str], lines: Lines, columns: Sequence[str], among: Sequence[int] | None = None
) -> Cells:
    """Return the cells with the largest number of a column, ties included, if it has several numbers.

    ``among`` restricts the rows that are compared.
    """
    numbers = range(len(lines)) if among is None else among
    best: set[tuple[int, int]] = set()
    for column in (header.index(name) for name in columns if name in header):
        values = {line: value for line in numbers if (value := _number(lines[line][column])) is not None}
        if len(values) > 1:
            best |= {(line, column) for line, value in values.items() if value == max(values.values())}
    return frozenset(best)


def _number(text: str) -> float | None:
    try:
        return float(text.split(" ")[0].replace(",", ""))
    except ValueError:
        return None


def markdown(header: Sequence[str], lines: Lines, text_columns: int = 1, bold: Cells = NONE) -> str:
    """Return a markdown table; the first ``text_columns`` columns hold text, the others numbers."""
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    cells = [
        [
            f"**{escape_markdown(cell)}**" if (i, j) in bold else escape_markdown(cell)
            for j, cell in enumerate(row)
        ]
        for i, row in enumerate(lines)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in ([*map(escape_markdown, header)], rule, *cells))


def escape_markdown(text: str) -> str:
    """Escape text for markdown, so that it contains no markup, no link and no image to fetch."""
    text = "".join(MARKDOWN.get(each, each) for each in printable(text.replace("\n", " ")))
    return text.replace("](", "\\](").replace("][", "\\][")


def comma_separated(header: Sequence[str], lines: Lines) -> str:
    """Return the cells as CSV."""
    text = io.StringIO()
    rows = ([plain_cell(cell) for cell in row] for row in (header, *lines))
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def plain_cell(text: str) -> str:
    """Return a cell that a spreadsheet does not evaluate: a quote is put before a formula."""
    text = printable(text, len(text) + 1)
    if not text.startswith(FORMULA) or (len(text) < MAX_NUMBERS_LENGTH and NUMBERS.fullmatch(text)):
        return text
    return f"'{text}"


def latex(
    header: Sequence[str], lines: Lines, caption: str, text_columns: int = 1, bold: Cells = NONE
) -> str:
    """Return a table for LaTeX's booktabs package."""
    columns = "l" * text_columns + "r" * (len(header) - text_columns)
    cells = [
        [
            rf"\textbf{{{escape_latex(cell)}}}" if (i, j) in bold else escape_latex(cell)
            for j, cell in enumerate(row)
        ]
        for i, row in enumerate(lines)
    ]
    body = [" & ".join(row) + r" \\" for row in ([*map(escape_latex, header)], *cells)]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape_latex(caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in printable(text.replace("\n", " ")))


def plain(header: Sequence[str], lines: Lines) -> str:
    """Return the cells in aligned columns for the terminal."""
    header, *lines = ([printable(cell) for cell in line] for line in (header, *lines))
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in (header, *lines)
    )
