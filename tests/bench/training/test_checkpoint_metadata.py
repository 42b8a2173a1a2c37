"""Every field of a checkpoint's note is checked before a detector is built of it."""

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from json_kinds import FLAG, SHA256, each, kind, maybe, one_of, placed, refused
from safetensors.torch import save_file

from bench.config.protocol import Protocol
from bench.io.errors import InputError
from bench.io.typed_values import structure_dataclass
from bench.models import INPUT_NAMES
from bench.training.checkpoints.export import KEY, SCHEMA, read_checkpoint
from strategies import build_strategy, installed
from strategies.base import settings as written
from strategies.testing import TINY_PROTOCOL

WHOLE = json.loads(
    json.dumps(
        {
            "schema": SCHEMA,
            "run": "own_vit-t_losa_seed3_0",
            "model": "vit-t",
            "strategy": written(build_strategy("losa")),
            "protocol": dataclasses.asdict(TINY_PROTOCOL),
            "classes": ["run", "jump"],
            "dataset": "own (own)",
            "seed": 3,
            "weights": {"name": "random", "sha256": None, "licence": None},
            "device": "cpu",
        }
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notes")


STRING = kind(lambda v: isinstance(v, str), st.text())
PRINTABLE = kind(
    lambda v: isinstance(v, str) and v.isprintable(), st.text("ab é", max_size=5), "a\nb", "\x1b"
)
INTEGER = kind(lambda v: type(v) is int, st.integers(1, 2), 1.5, 1.0, True, "9")
REAL = kind(
    lambda v: type(v) in (int, float) and abs(v) < 10**308, st.floats(0.1, 1), math.nan, -math.inf, "1"
)
MAPPING = kind(lambda v: isinstance(v, dict), st.nothing())
FIELDS = {
    ("schema",): kind(lambda v: type(v) is int and v == 1, st.just(1), 2, True, 1.0),
    ("run",): PRINTABLE,
    ("model",): one_of(*INPUT_NAMES),
    ("strategy",): MAPPING,
    ("strategy", "name"): one_of(*installed()),
    ("strategy", "lr"): REAL,
    ("strategy", "width"): maybe(INTEGER),
    ("strategy", "taps"): each(INTEGER),
    ("protocol",): MAPPING,
    ("protocol", "frames_per_second"): REAL,
    ("protocol", "steps"): INTEGER,
    ("protocol", "ema_decay"): maybe(REAL),
    ("protocol", "tiou"): each(REAL),
    ("protocol", "precision"): one_of("float32", "bfloat16"),
    ("protocol", "cache"): FLAG,
    ("protocol", "classifier"): maybe(STRING),
    ("protocol", "head"): MAPPING,
    ("protocol", "head", "levels"): INTEGER,
    ("protocol", "nms", "nms_method"): one_of("soft", "hard", "none"),
    ("protocol", "lean", "move_per_pass"): FLAG,
    ("classes",): each(kind(lambda v: PRINTABLE.takes(v) and 0 < len(v) <= 200, st.nothing(), "x" * 201), 1),
    ("dataset",): PRINTABLE,
    ("seed",): kind(lambda v: type(v) is int and 0 <= v < 2**31, st.integers(0, 2**31 - 1), -1, 2**31, 1.0),
    ("weights",): MAPPING,
    ("weights", "name"): STRING,
    ("weights", "sha256"): maybe(kind(lambda v: v == "" or SHA256.takes(v), SHA256.good, "A" * 64)),
    ("weights", "licence"): maybe(STRING),
    ("device",): STRING,
}
NEEDED = [("strategy", "name"), ("protocol", "steps"), ("weights", "name")]
NEEDED += [path for path in FIELDS if len(path) == 1]
GOOD = ("run", "dataset", "seed", "device", "weights", "strategy")
DRAWN = [path for path in FIELDS if path[0] in GOOD and FIELDS[path] is not MAPPING]
DRAWN = [path for path in DRAWN if path[-1] != "width" and path != ("strategy", "name")]  # these go together


@given(st.data())
def test_any_wrong_field_of_a_note_is_named(folder, data):
    def read(content):
        note = {KEY: json.dumps(content)}
        save_file({"a": torch.zeros(1)}, folder / "drawn.safetensors", metadata=note)
        return read_checkpoint(folder / "drawn.safetensors")

    path = data.draw(st.sampled_from(list(FIELDS)))
    assert "drawn.safetensors: " in refused(read, placed(WHOLE, path, data.draw(FIELDS[path].bad)), path)
    path = data.draw(st.sampled_from(NEEDED))
    refused(read, placed(WHOLE, path, ...), path)
    path = data.draw(st.sampled_from(DRAWN))
    content = placed(WHOLE, path, data.draw(FIELDS[path].good))
    note = read(content).note
    found = {"strategy": written(note.strategy), "weights": dataclasses.asdict(note.weights)}
    known = found[path[0]] if path[0] in found else getattr(note, path[0])
    assert json.loads(json.dumps(known)) == content[path[0]]


def test_whole_numbers_stay_whole_where_a_number_is_asked_for():
    """A protocol's digest tells 1 from 1.0."""
    content = placed(WHOLE["protocol"], ("gradient_clip",), 1)
    assert json.dumps(structure_dataclass(Protocol, content).gradient_clip) == "1"
    content = placed(content, ("head", "init_loss_norm"), 100)
    content = placed(content, ("tiou",), [1, 0.5])
    assert json.loads(json.dumps(dataclasses.asdict(structure_dataclass(Protocol, content)))) == content
    assert json.dumps(dataclasses.asdict(structure_dataclass(Protocol, content))["tiou"]) == "[1, 0.5]"


@dataclasses.dataclass(frozen=True)
class Careful:
    """A strategy of somebody else."""

    width: int = 1
    other: set[int] | list[int] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        if self.width == 3:
            raise ValueError("three is\nno width - at `$.x`")


def test_what_a_strategy_itself_refuses_or_cannot_read_is_one_line():
    narrow = dataclasses.make_dataclass("Narrow", [("width", int)], bases=(Careful,), frozen=True)
    for kind_ in (Careful, narrow):
        with pytest.raises(InputError, match="field 'strategy'") as caught:
            structure_dataclass(kind_, {"width": 3}, ("strategy",))
        assert str(caught.value).isprintable()
