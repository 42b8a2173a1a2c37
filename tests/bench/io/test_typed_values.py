"""Values of any shape: those that tables and terminals can show, and the quick look that takes no others."""

import json
import math
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.io.errors import InputError
from bench.io.reading import parse_json
from bench.io.text import has_control_chars, is_name
from bench.io.typed_values import check_plain, decode_plain

ANY_SHAPE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**21), 10**21),
        st.floats(),
        st.sampled_from(["x" * 10_000, "x" * 10_001, "é\n", 'a:"\\', 2**63, 2**63 - 1, -(2**63), 10**20]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "b:", "", "x" * 200, "x" * 201, "é", "\n", "\x7f"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def is_plain(value):
    """Say of plain values that they are, without the checks that are tested."""
    if isinstance(value, dict):
        return all(is_name(key) and is_plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    if isinstance(value, str):
        return len(value) <= 10_000
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or -(2**63) < value < 2**63


@given(ANY_SHAPE)
def test_settings_of_any_shape_are_plain_or_refused_and_a_quick_look_takes_none_for_another(value):
    if is_plain(value):
        check_plain(value, ("record",))
    else:
        with pytest.raises(InputError, match=r"field 'record"):
            check_plain(value, ("record",))
    for content in (json.dumps(value).encode(), json.dumps(value, ensure_ascii=False, indent=1).encode()):
        quick = decode_plain(content)
        assert isinstance(quick, type(decode_plain(b"\xff"))) or (is_plain(value) and quick == value)
        if is_plain(value):
            assert parse_json(content, "x", finite=True) == value


def test_names_hold_no_character_that_acts():
    turns = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    for number in range(sys.maxunicode + 1):
        acting = chr(number) in turns or unicodedata.category(chr(number)) in ("Cc", "Cs", "Zl", "Zp")
        assert has_control_chars(chr(number)) == acting, hex(number)


def test_of_several_wrong_values_the_first_is_named():
    record = {"settings": {"a": [1, {"deep": 2**63}], "b": 2**63}, "last": 2**63}
    with pytest.raises(InputError, match=r"field 'record\.settings\.a\[1\]\.deep'"):
        check_plain(record, ("record",))
