"""Kinds of JSON values by the fields that take them: good ones and bad ones, drawn by hypothesis."""

import copy
from typing import NamedTuple

import pytest
from hypothesis import strategies as st

from bench.io.errors import InputError

MAX_NUMBER = 2**63
ACTING = ("\x1b", "\n", "\x7f", "\u202e", "\u2066", "\u2028", "\ud800", "\x00", "\u061c")
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.floats(-2, 2),
    st.text("a1.", max_size=2),
    st.sampled_from(
        [[], {}, [None], {"a": 1}, [["a"]], [1, 2], [1, 2, 3], MAX_NUMBER, -MAX_NUMBER, 10**400, 1e300]
    ),
)


class Kind(NamedTuple):
    """What says of a value whether it is one, and strategies of those that are and those that are none."""

    takes: object
    good: st.SearchStrategy
    bad: st.SearchStrategy


def kind(takes, good, *edges):
    return Kind(
        takes, good, st.one_of(ANYTHING, st.sampled_from([None, *edges])).filter(lambda v: not takes(v))
    )


def maybe(inner):
    """Return a kind that null is, too."""
    return Kind(
        lambda v: v is None or inner.takes(v),
        st.none() | inner.good,
        inner.bad.filter(lambda v: v is not None),
    )


def each(inner, least=0, most=10_000):
    """Return the kind of lists of a kind."""
    good = st.lists(inner.good, min_size=least, max_size=max(3, least))
    long = [[]] if most > 100 else [[0.5] * (most + 1)]
    result = kind(
        lambda v: type(v) is list and least <= len(v) <= most and all(map(inner.takes, v)), good, *long
    )
    wrong = st.tuples(good, inner.bad).map(lambda both: [*both[0], both[1]])
    return result._replace(bad=result.bad | wrong.filter(lambda v: not result.takes(v)))


def table(inner):
    """Return the kind of objects of a kind."""
    good = st.dictionaries(NAME.good, inner.good, max_size=2)
    result = kind(
        lambda v: type(v) is dict and all(map(NAME.takes, v)) and all(map(inner.takes, v.values())), good
    )
    wrong = st.one_of(
        st.tuples(good, inner.bad).map(lambda both: {**both[0], "wrong": both[1]}),
        st.tuples(inner.good, NAME.bad.filter(lambda v: isinstance(v, str))).map(
            lambda both: {both[1]: both[0]}
        ),
    )
    return result._replace(bad=result.bad | wrong)


def acts(text):
    return any(character in text for character in ACTING)


_names = st.one_of(
    st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=5), st.just("x" * 200)
).filter(lambda v: not acts(v))
_odd = ("x" * 201, *(f"a{character}b" for character in ACTING), *ACTING)
NAME = kind(lambda v: isinstance(v, str) and 0 < len(v) <= 200 and not acts(v), _names, "", *_odd)
LABEL = kind(lambda v: v == "" or NAME.takes(v), st.just("") | _names, *_odd)
TEXT = kind(lambda v: isinstance(v, str) and len(v) <= 10_000, st.text(max_size=5), "x" * 10_001)
SHA256 = kind(
    lambda v: isinstance(v, str) and len(v) == 64 and set(v) <= set("0123456789abcdef"),
    st.text("0123456789abcdef", min_size=64, max_size=64),
    "A" * 64,
    "a" * 63,
    "a" * 65,
    "a" * 64 + "\n",
    "../../etc/passwd",
)
WHOLE = kind(
    lambda v: type(v) is int and 0 <= v < MAX_NUMBER,
    st.integers(0, MAX_NUMBER - 1),
    -1,
    1.0,
    True,
    "1",
    2**64,
)
POSITIVE = kind(lambda v: WHOLE.takes(v) and v > 0, st.integers(1, MAX_NUMBER - 1), 0, -1, 1.0, True)
NUMBER = kind(
    lambda v: type(v) in (int, float) and 0 <= v < MAX_NUMBER,
    st.integers(0, MAX_NUMBER - 1) | st.floats(0, 9e18),
    -1,
    -0.5,
    float(MAX_NUMBER),
    True,
)
REAL = kind(
    lambda v: type(v) in (int, float) and -MAX_NUMBER < v < MAX_NUMBER,
    st.integers(1 - MAX_NUMBER, MAX_NUMBER - 1) | st.floats(-9e18, 9e18),
    False,
)
FRACTION = kind(
    lambda v: type(v) in (int, float) and 0 <= v <= 1, st.floats(0, 1) | st.sampled_from([0, 1]), 1.5, 31.5, 2
)
FLAG = kind(lambda v: type(v) is bool, st.booleans(), 0, 1, "true")
OBJECT = kind(lambda v: type(v) is dict, st.dictionaries(_names, st.none(), max_size=2))


def one_of(*values):
    """Return the kind of some texts."""
    return kind(lambda v: isinstance(v, str) and v in values, st.sampled_from(values), values[0] + "\n", "x")


def triple(*kinds):
    """Return the kind of lists of one value of each kind."""
    good = st.tuples(*(inner.good for inner in kinds)).map(list)
    return kind(
        lambda v: (
            type(v) is list
            and len(v) == len(kinds)
            and all(inner.takes(entry) for inner, entry in zip(kinds, v, strict=True))
        ),
        good,
        *([1] * (len(kinds) - 1), [1.5] * len(kinds), [-1] * len(kinds)),
    )


def placed(document, path, value):
    """Return a copy of a document with a value at a path of names and indices; ``...`` deletes."""
    result = copy.deepcopy(document)
    *parents, last = path
    place = result
    for step in parents:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return result


def spelt(path):
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def refused(check, document, path, before=""):
    """Expect one line that names the field at a path, or one inside it, and return it."""
    with pytest.raises(InputError) as caught:
        check(document)
    line = str(caught.value)
    assert f"field '{spelt(path)}" in line or (before and f"field '{before}.{spelt(path)}" in line), line
    assert line.isprintable()
    assert len(line) < 600
    return line
