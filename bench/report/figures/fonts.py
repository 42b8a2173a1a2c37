"""Draw labels in any script: with installed fonts that have its characters, and without warnings."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from matplotlib.patheffects import Normal
from matplotlib.text import Text

from bench.io.text import format_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
USUAL = "DejaVu Sans"
MISSING = re.compile(r"Glyph \d+ .* missing from")
PLACEHOLDERS = re.compile(r"last\s?resort|adobe blank", re.IGNORECASE)
"""Fonts that have a picture for every character, but not of it."""
_reported: set[str] = set()


def draw_with_fonts(figure: Figure, draw: Callable[[], T]) -> T:
    """Return what ``draw`` returns, which renders the figure and may be called twice.

    If matplotlib's usual font lacks characters, all texts of the figure get further installed fonts that have
    them. Characters that no font has are boxes; one line on standard error names the script and a label.
    Other figures are drawn once, unchanged.
    """
    result, lacking = _without_glyph_warnings(draw)
    if not lacking:
        return result
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    needed = {character for text in texts for character in text.get_text() if character.isprintable()}
    families, absent = families_for(needed)
    with matplotlib.rc_context({"font.family": families}):
        for text in texts:
            text.set_fontfamily(families)
            if not all(_has(font_manager.findfont(USUAL), each) for each in text.get_text()):
                # Drawn as outlines: matplotlib writes fonts with PostScript outlines, such as Noto CJK,
                # to a PDF in a way that leaves the text invisible.
                text.set_path_effects([Normal()])
        result, _ = _without_glyph_warnings(draw)
    report(absent, [text.get_text() for text in texts])
    return result


def _without_glyph_warnings(draw: Callable[[], T]) -> tuple[T, bool]:
    """Return the result, and whether matplotlib warned of missing glyphs; other warnings are passed on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = draw()
    glyphs = [MISSING.search(str(each.message)) is not None for each in caught]
    for each, glyph in zip(caught, glyphs, strict=True):
        if not glyph:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return result, any(glyphs)


def families_for(characters: Collection[str]) -> tuple[list[str], set[str]]:
    """Return font families that together have the characters, the usual one first, and those that none has.

    In turn the font is added that has most of the rest; a regular sans-serif one if several have as many.
    """
    left = {each for each in characters if not _has(font_manager.findfont(USUAL), each)}
    families = [USUAL]
    for refresh in (False, True):
        fonts = _installed(refresh) if left else []
        while left:
            covered = {font: {each for each in left if _has(font.fname, each)} for font in fonts}
            best = max(fonts, key=lambda font: (len(covered[font]), *_preference(font)), default=None)
            if best is None or not covered[best]:
                break
            families.append(best.name)
            left -= covered[best]
    return families, left


def report(absent: Collection[str], labels: Collection[str]) -> None:
    """Print a line for each script with characters that cannot be drawn, once in a process."""
    for script in sorted({_script(each) for each in absent} - _reported):
        _reported.add(script)
        label = next(
            label for label in labels if any(_script(each) == script for each in {*label} & {*absent})
        )
        print(
            f"figures: no installed font has {script} characters, as in {format_value(label)}: they are "
            "drawn as boxes; install a font that has them, such as one of Noto Sans",
            file=sys.stderr,
        )


def _script(character: str) -> str:
    letter = unicodedata.category(character)[0] in "LMN"
    return unicodedata.name(character, "unnamed").split()[0] if letter else "symbol"


def _installed(refresh: bool) -> list[Any]:
    """Return the fonts that matplotlib knows; with ``refresh``, also those installed since it listed them."""
    manager = font_manager.fontManager
    if refresh:
        for path in sorted({*font_manager.findSystemFonts()} - {font.fname for font in manager.ttflist}):
            try:
                manager.addfont(path)
            except (OSError, RuntimeError, ValueError):
                continue  # damaged, or of a kind that matplotlib cannot draw
    return [font for font in manager.ttflist if not PLACEHOLDERS.search(font.name)]


def _preference(font: Any) -> tuple[bool, bool, bool, int, str]:
    """Return a key that is largest for a regular sans-serif font, of proportional width."""
    name, weight = font.name.lower(), font.weight if isinstance(font.weight, int) else 400
    return "sans" in name, "mono" not in name, font.style == "normal", -abs(weight - 400), font.name


@functools.lru_cache(maxsize=8192)
def _has(path: str, character: str) -> bool:
    """Return whether a font has an outline of a character; fonts of coloured bitmaps have none."""
    font = _font(path)
    if font is None or ord(character) not in font.get_charmap():
        return False
    try:
        font.load_char(ord(character))
    except RuntimeError:
        return False
    return True


@functools.lru_cache(maxsize=64)
def _font(path: str) -> FT2Font | None:
    try:
        font = FT2Font(path)
        font.set_size(10, 100)
    except (OSError, RuntimeError):
        return None
    return font
