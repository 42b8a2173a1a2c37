"""A strategy looks the same in every figure."""

from bench.report.figures.style import KNOWN, looks
from strategies import NAMED_GROUPS


def test_the_other_rows_do_not_matter():
    assert looks(["losa"])[0] == looks(["head-only", "lofi", "losa"])[2]
    assert looks(["mine"])[0] == looks(["head-only", "other", "mine"])[2]


def test_those_of_the_main_tables_differ_in_colour_marker_and_dashes():
    names = {*NAMED_GROUPS["default"], *NAMED_GROUPS["papers"]}
    for part in range(3):
        assert len({str(KNOWN[name][part]) for name in names}) == len(names)


def test_every_shipped_strategy_has_a_look_of_its_own():
    assert {name for group in NAMED_GROUPS.values() for name in group} <= KNOWN.keys()
    assert len({(look.colour, look.marker) for look in KNOWN.values()}) == len(KNOWN)


def test_settings_of_one_strategy_keep_its_colour_but_not_its_dashes():
    first, second = looks(["lofi", "lofi"])
    assert (first.colour, first.marker) == (second.colour, second.marker)
    assert first.dashes != second.dashes
    assert (first.filled, second.filled) == (True, False)
