"""Figures of many rows: nothing is wider than a page, and no two rows look the same."""

import pytest
from made_records import record
from test_detection_errors import diagnosis

from bench.report.figures import accuracy as figures
from bench.report.tables import comparison as tables
from bench.report.tables import detection_errors


@pytest.fixture
def drawn(monkeypatch):
    """Return the list that drawn figures come into, in place of files."""
    found = []
    for module in (figures, detection_errors):
        monkeypatch.setattr(module, "save", lambda figure, path: found.append(figure) or [path])
    return found


def comparison(count):
    records = [
        record("losa", settings={"rate": number}, diagnosis=diagnosis(0.5, 0.25)) for number in range(count)
    ]
    return tables.comparisons(records)[0]


@pytest.mark.parametrize(("rows", "lines", "spare"), [(1, 1, 0), (7, 1, 0), (8, 2, 0), (15, 3, 0), (9, 2, 1)])
def test_panels_go_on_below(rows, lines, spare, drawn, tmp_path):
    detection_errors.false_positives(comparison(rows).rows, tmp_path / "panels")
    panels = drawn[0].axes
    assert [bool(panel.axison) for panel in panels] == [True] * rows + [False] * spare
    assert len({panel.get_subplotspec().rowspan.start for panel in panels}) == lines
    assert drawn[0].get_size_inches()[0] < 12
    assert [bool(panel.get_ylabel()) for panel in panels].count(True) == lines


def test_rows_of_one_strategy_are_numbered_at_their_marks(drawn, tmp_path):
    rows = list(comparison(3).rows)
    figures.map_against_memory(comparison(3), rows, tmp_path / "map")
    [axes] = drawn[0].axes
    numbers = [text.get_text() for text in axes.texts]
    named = [text.get_text().split()[0] for text in axes.get_legend().get_texts()]
    assert numbers == named == ["1", "2", "3"]


def test_rows_of_different_strategies_need_no_numbers(drawn, tmp_path):
    item = tables.comparisons([record("losa"), record("lofi")])[0]
    figures.map_against_memory(item, list(item.rows), tmp_path / "map")
    [axes] = drawn[0].axes
    assert not axes.texts
