"""The protocol: one digest for all that is held equal, fields from text, one line for mistakes."""

import dataclasses

import pytest
import torch

from bench.config.overrides import override
from bench.config.presets import MINIATURE, STANDARD, default_protocol
from bench.config.protocol import HeadSize
from bench.io.errors import InputError
from bench.models import build_head


def test_every_field_changes_the_digest():
    seen = {MINIATURE.digest()}
    for field in dataclasses.fields(MINIATURE):
        value = getattr(MINIATURE, field.name)
        if field.name == "head":
            changed = dataclasses.replace(value, levels=5)
        elif field.name == "nms":
            changed = dataclasses.replace(value, nms_sigma=0.4)
        elif isinstance(value, bool):
            changed = not value
        elif isinstance(value, (int, float)):
            changed = value + 1
        elif isinstance(value, tuple):
            changed = (*value, 0.9)
        else:
            changed = f"{value}x"
        seen.add(dataclasses.replace(MINIATURE, **{field.name: changed}).digest())
    assert len(seen) == 1 + len(dataclasses.fields(MINIATURE))


def test_defaults_by_model():
    assert default_protocol("vit-t") is MINIATURE
    assert default_protocol("vit-g") is STANDARD
    assert default_protocol("vit-g", "cpu") == dataclasses.replace(STANDARD, precision="float32")


def test_override_sets_typed_fields():
    changed = override(
        MINIATURE, {"steps": "7", "head.levels": "3", "nms.nms_method": "hard", "tiou": ".5+.75"}
    )
    assert (changed.steps, changed.head.levels, changed.nms.nms_method) == (7, 3, "hard")
    assert changed.tiou == (0.5, 0.75)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stepps", "7", "unknown field 'stepps', known are frames_per_second"),
        ("head.depth", "7", "unknown field 'head.depth'"),
        ("head", "7", "unknown field 'head'"),
        ("neck.depth", "7", "unknown field"),
        ("steps", "many", "type int"),
        ("steps", "1", "'steps' is 1, allowed is 2"),
        ("precision", "int8", "float32, bfloat16"),
        ("window_overlap", "1.5", "window_overlap"),
        ("learning_rate", "nan", "learning_rate"),
    ],
)
def test_mistakes_are_one_line(key, value, words):
    with pytest.raises(InputError, match=words) as caught:
        override(MINIATURE, {key: value})
    assert "\n" not in str(caught.value)


def test_regression_ranges_double_and_the_last_is_open():
    keywords = MINIATURE.head.keywords(128)
    assert keywords["regression_range"] == ((0, 4), (4, 8), (8, 16), (16, 10000))
    assert keywords["backbone_arch"][2] == 3


def test_the_head_takes_windows_that_its_pyramid_does_not_divide():
    size = HeadSize(levels=6)
    assert [size.keywords(steps)["max_seq_len"] for steps in (1, 32, 48, 384)] == [32, 32, 64, 384]
    head = build_head(input_dim=4, num_classes=2, **size.keywords(48))
    outputs = head(torch.zeros(1, 4, 48), torch.ones(1, 48, dtype=torch.bool))
    assert [level[0].shape[1] for level in outputs] == [64, 32, 16, 8, 4, 2]
    assert [int(level[2].sum()) for level in outputs] == [48, 24, 12, 6, 3, 2]
