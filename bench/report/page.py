"""One page with all tables and figures: no network, sorted and filtered in the browser, text escaped."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
from collections.abc import Sequence
from pathlib import Path

from bench.io.text import printable


@dataclasses.dataclass(frozen=True)
class Section:
    """A table under its title, what must be said with it, and the figures that belong to it."""

    title: str
    remarks: tuple[str, ...]
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    figures: tuple[Path, ...] = ()
    details: tuple[tuple[str, str], ...] = ()
    """Summaries and the texts that open behind them."""


LOOK = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; font-size: 1.1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #ccc; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid #0072B2; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
img { max-width: 100%; height: auto; }
figure { display: inline-block; margin: 0.5rem; max-width: 36rem; vertical-align: top; }
figcaption { font-size: 0.75rem; color: #555; }
details { font-size: 0.85rem; margin: 0.2rem 0; }
summary { cursor: pointer; }
pre { overflow-x: auto; font-size: 0.8rem; }
@media (prefers-color-scheme: dark) {
  body { background: #16181c; color: #e4e6ea; }
  a { color: #8cc4ff; }
  th, td { border-color: #444; }
  th button:focus-visible { outline-color: #56B4E9; }
  figcaption { color: #aaa; }
  img { background: white; border-radius: 4px; }
}
"""

# Cells are moved, never made: no text of the page is read as markup.
SCRIPT = """
const value = (row, column) => row.cells[column].textContent.trim();
const number = text => parseFloat(text.replace(/,/g, ""));
for (const section of document.querySelectorAll("section")) {
  const body = section.querySelector("tbody");
  if (!body) continue;
  section.querySelector("input").addEventListener("input", event => {
    const wanted = event.target.value.toLowerCase().split(" ").filter(Boolean);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every(word => text.includes(word));
    }
  });
  section.querySelectorAll("th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of section.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((first, second) => {
        const a = value(first, column), b = value(second, column);
        if (!a || !b) return a ? -1 : b ? 1 : 0;
        const order = isNaN(number(a)) || isNaN(number(b)) ? a.localeCompare(b) : number(a) - number(b);
        return down ? -order : order;
      });
      body.append(...rows);
    });
  });
}
"""


# The page loads nothing and runs its one script: a browser that keeps this policy could not do more, whatever
# a name in a record holds.
ALLOWED = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{ALLOWED}'"


def page(sections: Sequence[Section]) -> str:
    """Return the page; figures that are PNG lie in it, others are left out."""
    contents = "".join(
        f'<li><a href="#part{number}">{_text(section.title)}</a></li>'
        for number, section in enumerate(sections)
    )
    parts = "\n".join(_section(number, section) for number, section in enumerate(sections))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>talbench: results</title>\n<style>{LOOK}</style>\n</head>\n<body>\n"
        f"<h1>talbench: results</h1>\n<nav><ul>{contents}</ul></nav>\n{parts}\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(number: int, section: Section) -> str:
    title = _text(section.title)
    remarks = "".join(f"<p>{_text(remark)}</p>\n" for remark in section.remarks)
    table = ""
    if section.lines:
        head = "".join(
            f'<th scope="col"><button type="button">{_text(name)}</button></th>' for name in section.header
        )
        body = "\n".join(
            f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in line)}</tr>" for line in section.lines
        )
        table = (
            f'<p><label>rows with <input type="search"></label></p>\n<div class="wide"><table>'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
        )
    if section.details:
        table += '<p class="details">Configuration, environment and runs of each row:</p>\n'
    table += "".join(
        f"<details><summary>{_text(summary)}</summary><pre>{_text(text)}</pre></details>\n"
        for summary, text in section.details
    )
    pictures = "".join(_figure(path) for path in section.figures if path.suffix == ".png")
    return f'<section id="part{number}">\n<h2>{title}</h2>\n{remarks}{table}{pictures}</section>'


def _text(text: str) -> str:
    """Return what shows as the text itself: no markup, no character that turns others around."""
    return html.escape("\n".join(printable(line, len(line) + 1) for line in text.split("\n")))


def _figure(path: Path) -> str:
    name = _text(path.stem)
    content = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{name}" src="data:image/png;base64,{content}">'
    return f"<figure>{image}<figcaption>{name}</figcaption></figure>\n"
