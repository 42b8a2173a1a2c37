"""The page of strategies names what is installed, the groups and what each strategy needs."""

import re
from pathlib import Path

import pytest

from strategies import NAMED_GROUPS, installed

PAGE = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text()
SHIPPED = {name: point for name, point in installed().items() if point.value.startswith("strategies.")}


def rows(header):
    """Return the cells of the rows of the table that has ``header``."""
    lines = PAGE[PAGE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


STRATEGIES = {row[0].strip("`"): row for row in rows("| name | what trains")}


def test_the_strategies_are_those_that_are_installed():
    assert sorted(STRATEGIES) == sorted(SHIPPED)
    assert len(rows("| name | what trains")) == len(STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
def test_needs_are_those_of_the_class(name):
    kind = SHIPPED[name].load()
    needs = getattr(kind, "needs", ("backbone",))
    # A transformer's attention is a part of its backbone.
    assert STRATEGIES[name][2] == ("attention" if "attention" in needs else "".join(needs))
    assert kind.name == name


def test_the_groups_are_those_of_the_command_line():
    found = {group.strip("`"): re.findall(r"`([\w-]+)`", names) for group, names in rows("| group |")}
    assert found.pop("all") == []
    assert {group: sorted(names) for group, names in found.items()} == {
        group: sorted(names) for group, names in NAMED_GROUPS.items()
    }
    grouped = {name for names in NAMED_GROUPS.values() for name in names}
    assert grouped == set(STRATEGIES)


def test_links_exist():
    for link in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / link).exists()
