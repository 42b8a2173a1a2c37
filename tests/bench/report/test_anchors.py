"""Forecasts beside published memory: the committed rows, the table, and what the pages say of it."""

import json
import re
from pathlib import Path

import pytest

from bench.io.errors import InputError
from bench.report.tables.anchors import cells, contents, parse, read_anchors

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "results" / "anchors"
ROWS, PROBLEMS = read_anchors(FOLDER)
OUTSIDE = [row for row in ROWS if row.kind == "forecast"]
UNITS = {"MB": 2**20, "M": 2**20, "GB": 10**9, "G": 10**9, "GiB": 2**30}
"""MB and M are those of logs, which divide by 2^20."""


def test_at_least_fourteen_figures_were_forecast_before_anything_was_changed():
    assert not PROBLEMS
    assert len(OUTSIDE) >= 14
    assert len({(row.title, row.published) for row in OUTSIDE}) == len(OUTSIDE)


def test_what_was_changed_stands_beside_the_forecast_of_the_same_figure():
    for path, row in zip(sorted(FOLDER.glob("*.json")), ROWS, strict=True):
        assert (row.kind == "forecast") == (not row.changed), path
        first = path
        if row.kind != "forecast":
            assert path.stem.endswith(f"_{row.kind}"), path
            first = path.with_name(f"{path.stem.removesuffix(f'_{row.kind}')}.json")
        known = parse(json.loads(first.read_text()))
        assert (known.kind, known.title) == ("forecast", row.title)
        assert (known.published, known.published_bytes) == (row.published, row.published_bytes)


def test_published_bytes_are_those_of_the_printed_text():
    for row in ROWS:
        number, unit = re.fullmatch(r"([\d.]+) ?([A-Za-z]+)", row.published).groups()
        assert row.published_bytes == round(float(number) * UNITS[unit]), row.title
        assert (unit in ("MB", "M")) == (row.quantity == "allocated"), row.title


def example(**changes):
    return json.loads((FOLDER / "16_e2e-tad_tsm-r50.json").read_text()) | changes


def test_published_and_predicted_stand_in_columns_of_their_own():
    forecast = example()["forecast"] | {"allocated_bytes": 9 * 2**20, "reserved_bytes": 12 * 2**20}
    stated = parse(example(published_bytes=10 * 2**20, forecast=forecast))
    logged = parse(
        example(published_bytes=10 * 2**20, forecast=forecast, quantity="allocated", kind="fitted")
    )
    header, lines = cells([stated, logged])
    first, second = (dict(zip(header, line, strict=True)) for line in lines)
    assert (first["published (MiB)"], first["predicted allocated (MiB)"]) == ("10", "9")
    assert (first["error (%)"], first["missing (MiB)"]) == ("-10.00", "1")
    assert (first["predicted reserved (MiB)"], first["error of reserved (%)"]) == ("12", "+20.00")
    assert (first["kind"], second["kind"]) == ("forecast", "fitted")
    assert second["predicted reserved (MiB)"] == second["error of reserved (%)"] == ""


def test_no_table_without_rows(tmp_path):
    assert read_anchors(tmp_path) == ([], [])
    assert contents([]) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grade": "good"}, "'grade' is 'good', allowed is one of code, parts, description"),
        ({"published_bytes": 0}, "'published_bytes' is 0, allowed is a whole number from 1 on"),
        ({"forecast": None}, "'forecast'"),
        ({"measured": 1}, "'measured'"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, changes, message):
    (tmp_path / "mine.json").write_text(json.dumps(example(**changes)))
    rows, [problem] = read_anchors(tmp_path)
    assert not rows
    assert problem.startswith("mine.json: ")
    assert message in problem
    with pytest.raises(InputError):
        parse(example(**changes))


def within(rows):
    return sum(abs(row.error) <= 3 for row in rows)


def test_the_page_on_memory_says_what_the_table_says():
    logged = [row for row in OUTSIDE if row.quantity == "allocated"]
    errors = [row.error for row in OUTSIDE]
    said = (
        f"Of {len(OUTSIDE)} figures, {within(OUTSIDE)} are met within 3 %, {within(logged)} of them among "
        f"the {len(logged)} that are PyTorch's own count in a training log; errors range from "
        f"{min(errors):.0f} to {max(errors):+.0f} %."
    )
    revised = [row for row in ROWS if row.kind == "revised"]
    said += " Rows that were revised from a source afterwards "
    said += f"({within(revised)} of {len(revised)} are within 3 %)"
    page = " ".join((ROOT / "docs" / "memory.md").read_text().split())
    assert said in page
    for text in (page, (ROOT / "README.md").read_text()):
        assert "results/tables/forecast_anchors.md" in text
