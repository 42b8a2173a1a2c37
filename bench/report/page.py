"""One HTML page with all tables and figures: offline, sortable and filterable, with escaped text."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from bench.io.text import printable


@dataclasses.dataclass(frozen=True)
class Section:
    """A table with its title, remarks and figures."""

    title: str
    remarks: tuple[str, ...]
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    figures: tuple[Path, ...] = ()
    details: tuple[tuple[str, str], ...] = ()
    """Pairs of a summary and the expandable text below it."""


FOLDER = Path(__file__).parent


def page(sections: Sequence[Section]) -> str:
    """Return the page as HTML; PNG figures are embedded, others are omitted."""
    style, script = ((FOLDER / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    environment = jinja2.Environment(autoescape=True, keep_trailing_newline=True)
    environment.filters.update(plain=_plain, base64=_base64)
    template = environment.from_string((FOLDER / "page.html").read_text(encoding="utf-8"))
    # The policy allows no requests and only the page's own script, so that a browser cannot do more,
    # whatever a name in a record contains.
    allowed = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    return template.render(
        sections=sections,
        style=Markup(style),
        script=Markup(script),
        policy=Markup(
            f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
        ),
    )


def _plain(text: str) -> Markup:
    """Escape untrusted text: HTML markup, control characters and characters that change text direction."""
    shown = "\n".join(printable(line, len(line) + 1) for line in text.split("\n"))
    return Markup(html.escape(shown))


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
