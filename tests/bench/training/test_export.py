"""A checkpoint gives back the detector that was evaluated, and a file that says anything else is one line."""

import dataclasses
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bench.config.presets import MINIATURE, STANDARD
from bench.config.protocol import Protocol
from bench.io.errors import InputError
from bench.io.reading import file_sha256
from bench.io.typed_values import structure_dataclass
from bench.models import SOURCE_WEIGHTS, SYNTHETIC_WEIGHTS
from bench.training.checkpoints.export import (
    KEY,
    SCHEMA,
    BaseWeights,
    CheckpointMetadata,
    build,
    loaded_names,
    read_checkpoint,
    restore,
    write_checkpoint,
)
from strategies import build_strategy, installed
from strategies.testing import TINY_PROTOCOL

SMALL = dataclasses.replace(TINY_PROTOCOL, image_size=32)
LOW = dataclasses.replace(SMALL, precision="bfloat16")


def note_of(strategy="head-only", protocol=SMALL, weights=SOURCE_WEIGHTS):
    name, sha256 = (weights.name, file_sha256(weights)) if weights else ("random", None)
    return CheckpointMetadata(
        schema=SCHEMA,
        run="own_vit-t_head-only_seed3_0",
        model="vit-t",
        strategy=build_strategy(strategy),
        protocol=protocol,
        classes=("run", "jump"),
        dataset="own (own)",
        seed=3,
        weights=BaseWeights(name, sha256, "Apache-2.0"),
        device="cpu",
    )


def trained(note, weights, moved):
    """A detector as training would leave it: tensors whose names begin with ``moved`` have other values."""
    detector = build(note, weights, note.seed)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in detector.state_dict().items():
            if name.startswith(moved) and value.is_floating_point():
                value.add_(torch.randn(value.shape, generator=generator).to(value.dtype))
    return detector


def same(first, other):
    one, two = first.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(
        v.dtype == two[n].dtype and torch.equal(v, two[n]) for n, v in one.items()
    )


@pytest.mark.parametrize("protocol", [SMALL, LOW], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "weights", [SOURCE_WEIGHTS, SYNTHETIC_WEIGHTS["source-1"], None], ids=["source", "source-1", "random"]
)
@pytest.mark.parametrize(
    ("strategy", "moved"),
    [("head-only", "head."), ("losa", ("head.", "backbone.adapters")), ("full-finetune", "")],
)
def test_every_tensor_comes_back_bit_for_bit(strategy, moved, weights, protocol, tmp_path):
    note = note_of(strategy, protocol, weights)
    detector = trained(note, weights, moved)
    path = tmp_path / "run.safetensors"
    write_checkpoint(path, detector, note, weights)
    checkpoint = read_checkpoint(path)
    assert checkpoint.note == note
    assert same(restore(checkpoint, None), detector)
    assert [each.name for each in tmp_path.iterdir()] == ["run.safetensors"]
    frozen = loaded_names(detector) & {n for n in detector.state_dict() if not n.startswith(moved)}
    assert not frozen & checkpoint.shapes.keys()
    assert (strategy == "full-finetune" or weights is None) == (not frozen)


def test_one_changed_backbone_tensor_is_kept(tmp_path):
    note = note_of()
    detector = build(note, SOURCE_WEIGHTS, note.seed)
    name = sorted(loaded_names(detector))[5]
    with torch.no_grad():
        detector.state_dict()[name].view(-1)[0] += 1
    write_checkpoint(tmp_path / "a.safetensors", detector, note, SOURCE_WEIGHTS)
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert [each for each in checkpoint.shapes if each.startswith("backbone.")] == [name]
    assert same(restore(checkpoint, None), detector)


def test_low_precision_weights_go_into_a_float32_detector(tmp_path):
    note = note_of("losa", LOW, None)
    detector = trained(note, None, "head.")
    write_checkpoint(tmp_path / "a.safetensors", detector, note, None)
    plain = dataclasses.replace(note, protocol=SMALL)
    found = restore(read_checkpoint(tmp_path / "a.safetensors"), None, plain).state_dict()
    assert all(value.dtype == torch.float32 for value in found.values() if value.is_floating_point())
    assert all(torch.equal(found[n], v.to(found[n].dtype)) for n, v in detector.state_dict().items())


@pytest.mark.parametrize("name", installed())
def test_notes_round_trip_through_json(name):
    strategy = build_strategy(name)
    assert (
        structure_dataclass(type(strategy), json.loads(json.dumps(dataclasses.asdict(strategy)))) == strategy
    )


@pytest.mark.parametrize("protocol", [MINIATURE, STANDARD])
def test_protocols_round_trip_and_keep_their_digest(protocol):
    again = structure_dataclass(Protocol, json.loads(json.dumps(dataclasses.asdict(protocol))))
    assert again == protocol
    assert again.digest() == protocol.digest()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "run.safetensors"
    note = note_of("losa")
    write_checkpoint(
        path, trained(note, SOURCE_WEIGHTS, ("head.", "backbone.adapters")), note, SOURCE_WEIGHTS
    )
    return path


def note_in(path):
    with safe_open(path, framework="pt") as stream:
        return json.loads(stream.metadata()[KEY])


def changed(file, tmp_path, change=None, tensors=None, raw=None):
    """Return a copy of the checkpoint with another note or other tensors."""
    content = note_in(file)
    content = change(content) or content if change else content
    values = load_file(file)
    values = tensors(values) or values if tensors else values
    path = tmp_path / "other.safetensors"
    save_file(values, path, metadata={KEY: json.dumps(content) if raw is None else raw})
    return path


def set_in(*keys, to):
    def change(content):
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: [c], r"field 'talbench' is \[.*allowed is an object"),
        (set_in("schema", to=2), "field 'schema' is 2, allowed is 1"),
        (lambda c: {k: v for k, v in c.items() if k != "seed"}, "field 'seed' is missing"),
        (set_in("command", to="rm"), "field 'command' is unknown"),
        (set_in("a\ud800", to=1), r"the whole holds 'a\\ud800', allowed is text in Unicode"),
        (
            set_in("protocol", "precision", to="\ud800"),
            r"field 'protocol' holds '\\ud800', allowed is text in",
        ),
        (set_in("model", to="vit-b"), "does not fit its own metadata"),
        (
            set_in("strategy", "name", to="os.system"),
            "'strategy.name' is 'os.system', allowed is one that is",
        ),
        (set_in("strategy", "depth", to=1), "field 'strategy.depth' is unknown, known are lr"),
        (set_in("strategy", "width", to=10**12), "run|built|shape"),
        (set_in("strategy", "taps", to=[99]), "detector cannot be built"),
        (set_in("protocol", "steps", to=1.5), "'protocol.steps' is 1.5, allowed is a whole number"),
        (set_in("protocol", "learning_rate", to=float("nan")), "rate' is nan, allowed is a finite number"),
        (set_in("protocol", "precision", to="int8"), "is 'int8', allowed is one of float32, bfloat16"),
        (set_in("protocol", "tiou", to=0.5), "field 'protocol.tiou' is 0.5, allowed is a list"),
        (set_in("protocol", "head", "depth", to=1), "field 'protocol.head.depth' is unknown, known are embd"),
        (set_in("protocol", "image_size", to=10**6), "'image_size' is 1000000, allowed is 1 to 4096"),
        (set_in("protocol", "head", "levels", to=10**9), "'head.levels' is 1000000000"),
        (set_in("protocol", "head", "head_dim", to=65536), "does not fit its own metadata; of another shape"),
        (set_in("protocol", "head", "embd_dim", to=65536), r"cannot be built \(fpn_dim 16"),
        (set_in("protocol", "head", "n_head", to=7), "detector cannot be built"),
        (set_in("protocol", "head", to={}), "does not fit its own metadata|of another shape"),
        (lambda c: c["protocol"].pop("steps") and None, "field 'protocol.steps' is missing"),
        (
            set_in("classes", to=["run", "run"]),
            "field 'classes' is .*, allowed is 1 to 10000 different names",
        ),
        (set_in("classes", to=["run", 5]), r"field 'classes\[1\]' is 5, allowed is text"),
        (set_in("classes", to=["run"]), "of another shape: head.cls_head"),
        (set_in("seed", to=-1), "field 'seed' is -1, allowed is a whole number from 0 to 2147483647"),
        (set_in("run", to="a\nb"), r"field 'run' is 'a\\nb', allowed is text of at most 300 printable"),
        (set_in("weights", "sha256", to="0" * 64), "sha256 .* started from 'vit-t-source.safetensors'"),
        (set_in("weights", "sha256", to="../x"), "field 'weights.sha256' is '../x', allowed is a sha256"),
        (set_in("weights", "sha256", to=None), "lacks tensors, though"),
    ],
)
def test_an_odd_note_is_one_line(change, words, file, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        restore(read_checkpoint(changed(file, tmp_path, change)), None)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (lambda v: {**v, "head.extra": torch.zeros(1)}, "not in the detector: head.extra"),
        (lambda v: {n: t for n, t in v.items() if "cls_head" not in n}, "missing: head.cls_head"),
        (lambda v: {n: t[None].contiguous() for n, t in v.items()}, "of another shape"),
        (lambda v: {n: t.to(torch.int32) for n, t in v.items()}, r"torch.int32, allowed is torch.float32"),
    ],
)
def test_tensors_that_do_not_fit_are_one_line(tensors, words, file, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        restore(read_checkpoint(changed(file, tmp_path, tensors=tensors)), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("raw", ["", "{", "[" * 100_000, '"text"', "null", "NaN", "1" * 5000])
def test_a_note_that_is_no_object_is_one_line(raw, file, tmp_path):
    with pytest.raises(InputError, match=f"{KEY}") as caught:
        read_checkpoint(changed(file, tmp_path, raw=raw))
    assert "\n" not in str(caught.value)


def test_other_files_are_one_line(file, tmp_path):
    foreign, cut, code = (tmp_path / f"{name}.safetensors" for name in ("foreign", "cut", "code"))
    save_file({"a": torch.zeros(2)}, foreign)
    cut.write_bytes(file.read_bytes()[:-100])
    torch.save({"a": torch.zeros(2)}, code)
    for path, words in (
        (foreign, "field 'talbench' is missing"),
        (cut, "damaged"),
        (code, "damaged"),
        (tmp_path, "no such checkpoint"),
        (tmp_path / "none.safetensors", "no such checkpoint"),
    ):
        with pytest.raises(InputError, match=words):
            read_checkpoint(path)


def test_other_weights_than_the_runs_are_named(file, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({**load_file(SOURCE_WEIGHTS), "more": torch.zeros(1)}, other)
    with pytest.raises(InputError, match=rf"{other}: sha256 .* pass that file as --weights"):
        restore(read_checkpoint(file), other)
    assert same(restore(read_checkpoint(file), SOURCE_WEIGHTS), restore(read_checkpoint(file), None))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_in_a_note_is_read_or_is_one_line(data, file, tmp_path):
    content = note_in(file)
    inner, key = content, data.draw(st.sampled_from(sorted(content)))
    while isinstance(inner[key], dict) and data.draw(st.booleans()):
        inner = inner[key]
        key = data.draw(st.sampled_from(sorted(inner)))
    inner[key] = data.draw(VALUES)
    path = changed(file, tmp_path, raw=json.dumps(content))
    try:
        read_checkpoint(path)
    except InputError as error:
        message = str(error)
    else:
        message = "read"
    assert "\n" not in message
