"""Tables of text cells as markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

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


def markdown(header: Sequence[str], lines: Lines, text_columns: int = 1) -> str:
    """Return a markdown table; the first columns hold text, the others numbers."""
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join("| " + " | ".join(map(escape_markdown, line)) + " |" for line in (header, rule, *lines))


def escape_markdown(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def comma_separated(header: Sequence[str], lines: Lines) -> str:
    """Return the cells as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    return text.getvalue()


def latex(header: Sequence[str], lines: Lines, caption: str, text_columns: int = 1) -> str:
    """Return a table for LaTeX's booktabs package."""
    columns = "l" * text_columns + "r" * (len(header) - text_columns)
    body = [" & ".join(map(escape_latex, line)) + r" \\" for line in (header, *lines)]
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
    return "".join(LATEX.get(character, character) for character in text.replace("\n", " "))


def plain(header: Sequence[str], lines: Lines) -> str:
    """Return the cells in columns for the terminal."""
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in (header, *lines)
    )
