"""One page with all tables and figures: no network, sorted and filtered in the browser, text escaped."""

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
    """A table under its title, what must be said with it, and the figures that belong to it."""

    title: str
    remarks: tuple[str, ...]
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    figures: tuple[Path, ...] = ()
    details: tuple[tuple[str, str], ...] = ()
    """Summaries and the texts that open behind them."""


FOLDER = Path(__file__).parent


def page(sections: Sequence[Section]) -> str:
    """Return the page; figures that are PNG lie in it, others are left out."""
    style, script = ((FOLDER / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    environment = jinja2.Environment(autoescape=True, keep_trailing_newline=True)
    environment.filters.update(plain=_plain, base64=_base64)
    template = environment.from_string((FOLDER / "page.html").read_text(encoding="utf-8"))
    # The page loads nothing and runs its one script: a browser that keeps this policy could not do more,
    # whatever a name in a record holds.
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
    """Return what shows as the text itself: no markup, no character that turns others around."""
    shown = "\n".join(printable(line, len(line) + 1) for line in text.split("\n"))
    return Markup(html.escape(shown))


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
