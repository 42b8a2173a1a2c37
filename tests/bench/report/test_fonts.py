"""Labels in any script: drawn with a font that has them, or as boxes with one line, never with warnings."""

import warnings
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
from matplotlib import font_manager

from bench.report.figures import fonts
from bench.report.figures.style import canvas, save

STIX = next(font for font in font_manager.fontManager.ttflist if font.name == "STIXGeneral")
"""A font that matplotlib ships, with characters that its usual font lacks."""


def lacking():
    """Return a letter that only the other font has."""
    codes = fonts._font(STIX.fname).get_charmap()
    return next(
        chr(code)
        for code in sorted(codes)
        if chr(code).isalpha() and not fonts._has(font_manager.findfont(fonts.USUAL), chr(code))
    )


@pytest.fixture(autouse=True)
def nothing_reported(monkeypatch):
    monkeypatch.setattr(fonts, "_reported", set())


def drawn(folder, *labels):
    with canvas(3, 1) as (figure, axes):
        axes.set_yticks(range(len(labels)), labels)
        axes.set_title(labels[0])
        files = save(figure, folder / "figure")
    assert [file.name for file in files] == ["figure.png", "figure.pdf"]
    return matplotlib.image.imread(files[0])


def test_usual_labels_are_drawn_once_and_no_other_font_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fonts, "families_for", None)
    first = drawn(tmp_path, "Küche", "дом", "=1 $x$")
    assert np.array_equal(first, drawn(tmp_path, "Küche", "дом", "=1 $x$"))
    assert capsys.readouterr().err == ""


def test_characters_of_no_font_are_boxes_and_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fonts, "_installed", lambda refresh: [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(tmp_path, "打开 冰箱/门", "plain")
        drawn(tmp_path, "门", "plain")
    said = capsys.readouterr().err
    assert said.startswith(
        "figures: no installed font has CJK characters, as in '打开 冰箱/门': they are drawn as"
    )
    assert said.count("\n") == 1


def test_a_font_that_has_the_characters_is_taken(tmp_path, monkeypatch, capsys):
    letter = lacking()
    monkeypatch.setattr(fonts, "_installed", lambda refresh: [])
    boxes = drawn(tmp_path, letter)
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(fonts, "_installed", lambda refresh: [STIX])
    assert fonts.families_for({letter, "a"}) == ([fonts.USUAL, "STIXGeneral"], set())
    assert fonts.families_for({letter, "打"}) == ([fonts.USUAL, "STIXGeneral"], {"打"})
    assert not np.array_equal(drawn(tmp_path, letter), boxes)
    assert capsys.readouterr().err == ""


def test_a_font_installed_since_matplotlib_looked_is_found(tmp_path, monkeypatch):
    manager = SimpleNamespace(ttflist=[])
    damaged = tmp_path / "damaged.ttf"
    damaged.write_bytes(b"no font")

    def add(path):
        manager.ttflist.append(font_manager.ttfFontProperty(font_manager.get_font(path)))

    manager.addfont = add
    monkeypatch.setattr(font_manager, "fontManager", manager)
    monkeypatch.setattr(font_manager, "findfont", lambda name: usual)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(damaged), STIX.fname])
    families, left = fonts.families_for({letter})
    assert (families, left) == ([fonts.USUAL, "STIXGeneral"], set())


usual, letter = font_manager.findfont(fonts.USUAL), lacking()


def test_regular_sans_serif_fonts_come_first():
    def font(name, style="normal", weight=400):
        return SimpleNamespace(name=name, style=style, weight=weight)

    found = [
        font("Any Serif"),
        font("Any Sans Mono"),
        font("Any Sans", "italic"),
        font("Any Sans", weight=700),
        font("Any Sans"),
    ]
    assert max(found, key=fonts._preference) is found[-1]
    assert not [each for each in fonts._installed(False) if "resort" in each.name.lower()]


def test_other_warnings_are_passed_on():
    def draw():
        warnings.warn("something else", stacklevel=1)

    with canvas(1, 1) as (figure, _), pytest.warns(UserWarning, match="something else"):
        fonts.draw_with_fonts(figure, draw)
