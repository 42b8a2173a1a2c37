"""Cells of tables show text as it stands, in every form that a table has."""

import csv
import io
import time

import pytest

from bench.io.tables import comma_separated, escape_latex, escape_markdown, plain, plain_cell


@pytest.mark.parametrize("text", ["=1+1", "+1+cmd|x", "-2+3", "@SUM(A1)", "-", "+", "=", "- text"])
def test_a_formula_becomes_text(text):
    assert plain_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "text", ["-1.5", "+4.4", "+1.7 to +7.0", "1,234", "-2 -1", "a=b", "", "-1e-5", "x - y"]
)
def test_numbers_and_other_text_stay(text):
    assert plain_cell(text) == text


def test_a_cell_that_seems_a_number_for_long_is_text_at_once():
    started = time.monotonic()
    assert plain_cell("+" + "1" * 10**6 + "x").startswith("'")
    assert time.monotonic() - started < 1


def test_csv_keeps_cells_apart_and_control_characters_out():
    nasty = 'a"b,c\r\nd\x1b[2J\t=1'
    [_, line] = csv.reader(io.StringIO(comma_separated(["h"], [[nasty, "\t=1"]])))
    assert line == ['a"b,c\\r\\nd\\x1b[2J\\t=1', "\\t=1"]


def test_markdown_shows_no_markup_link_or_picture():
    escaped = escape_markdown("<img src=x>|![a](http://b/c.png)|[d][e]`f`\\\x07\n")
    assert escaped == "&lt;img src=x>\\|![a\\](http://b/c.png)\\|[d\\][e]\\`f\\`\\\\\\\\x07 "


def test_latex_runs_no_command():
    assert escape_latex("\\input{/etc/passwd}$x$%\x07") == (
        r"\textbackslash{}input\{/etc/passwd\}\$x\$\%\textbackslash{}x07"
    )


def test_a_terminal_obeys_nothing():
    assert plain(["a\x1b[2J"], [["b\u202e"]]).replace("\n", "").isprintable()
