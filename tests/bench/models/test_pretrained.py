"""Checkpoints in the wild: every shape they come in, and every way they can be wrong."""

from __future__ import annotations

import argparse
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.io.errors import InputError
from bench.models import MODEL_NAMES, build_backbone, build_head
from bench.models.registry import FAMILIES


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return {name: torch.randn_like(value) for name, value in build_backbone("vit-t").state_dict().items()}


def loaded(path: Path) -> dict[str, torch.Tensor]:
    return build_backbone("vit-t", path).state_dict()


def assert_same(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(got) == set(wanted)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_names_are_those_of_the_models() -> None:
    assert tuple(name for family in FAMILIES for name in family.configs) == MODEL_NAMES
    with pytest.raises(InputError, match="model 'vit-x': allowed are vit-t, vit-s"):
        build_backbone("vit-x")


def test_importing_the_package_is_cheap() -> None:
    code = "import bench.models, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fresh_weights_follow_the_global_seed() -> None:
    torch.manual_seed(1)
    first = build_backbone("vit-t")
    torch.manual_seed(1)
    assert_same(build_backbone("vit-t").state_dict(), first.state_dict())
    assert first.load_audit is None
    assert first.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_sizes_may_be_replaced() -> None:
    backbone = build_backbone("vit-t", image_size=64, clip_frames=8)
    assert (backbone.geometry.image_size, backbone.geometry.clip_frames) == (64, 8)
    assert backbone.tokens(torch.zeros(1, 3, 8, 64, 64)).shape == (1, 4, 8, 8, 64)


@pytest.mark.parametrize("container", [(), ("model",), ("module",), ("state_dict",), ("state_dict", "model")])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "encoder.", "module.backbone.model.backbone."]
)
def test_containers_and_prefixes(
    tmp_path: Path, state: dict[str, torch.Tensor], container: tuple[str, ...], prefix: str
) -> None:
    content: dict[str, object] = {prefix + name: value for name, value in state.items()}
    for name in container:
        content = {name: content, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "a.pth")
    assert_same(loaded(tmp_path / "a.pth"), state)


def test_safetensors_and_the_audit(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    extra = {
        "pos_embed": torch.zeros(2),
        "head.weight": torch.zeros(2),
        "norm.bias": torch.zeros(2),
        "stranger": torch.zeros(2),
    }
    save_file(state | extra, tmp_path / "a.safetensors")
    audit = build_backbone("vit-t", str(tmp_path / "a.safetensors")).load_audit
    assert audit is not None
    assert set(audit.matched) == set(state)
    reasons = dict(audit.left_out)
    assert set(reasons) == set(extra)
    assert reasons["head.weight"] == "classifier"
    assert reasons["stranger"] == "no such tensor in the model"
    assert (audit.missing, audit.misshapen, audit.file, len(audit.sha256)) == ((), (), "a.safetensors", 64)


def test_averaged_weights_are_preferred(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    raw = {name: value + 1 for name, value in state.items()}
    torch.save({"state_dict": raw, "state_dict_ema": state}, tmp_path / "a.pt")
    assert_same(loaded(tmp_path / "a.pt"), state)


def test_other_spellings_of_names_and_one_bias_for_three(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    spelt = {}
    for name, value in state.items():
        if name.endswith("v_bias"):
            continue
        if name.endswith("q_bias"):
            value = torch.cat((value, torch.ones(64), state[name.replace("q_bias", "v_bias")]))
            name = name.replace("q_bias", "qkv.bias")
        spelt[name.replace("mlp.fc1", "mlp.layers.0.0").replace("mlp.fc2", "mlp.layers.1")] = value
    torch.save(spelt, tmp_path / "a.pt")
    assert_same(loaded(tmp_path / "a.pt"), state)


def message(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        build_backbone("vit-t", path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_gaps_are_errors(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "a.pt"
    torch.save({name: value for name, value in state.items() if "fc1.bias" not in name}, path)
    assert "missing: blocks.0.mlp.fc1.bias, blocks.1.mlp.fc1.bias" in message(path)
    torch.save(state | {"blocks.0.norm1.weight": torch.zeros(65)}, path)
    assert "misshapen: blocks.0.norm1.weight (65,) for (64,)" in message(path)
    torch.save(state | {"blocks.4.norm1.weight": torch.zeros(64)}, path)
    assert "not in the model: blocks.4.norm1.weight" in message(path)
    torch.save({"unrelated.weight": torch.zeros(3)}, path)
    assert "and" in message(path)
    assert "more" in message(path)
    torch.save(state | {"backbone.blocks.0.norm1.weight": torch.zeros(64)}, path)
    assert "are both blocks.0.norm1.weight" in message(path)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


def test_unreadable_files_are_errors(
    tmp_path: Path, state: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pth"
    assert "no such checkpoint file" in message(path)
    assert "ends in .pt, .pth, .pth.tar, .bin, .safetensors" in message(tmp_path / "a.onnx")
    path.touch()
    assert "empty" in message(path)
    torch.save({"model": state, "extra": Harmful()}, path)
    assert "holds code" in message(path)
    path.write_bytes(pickle.dumps(Harmful()))
    message(path)
    assert capsys.readouterr().out == ""
    torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in message(path)
    path.write_bytes(b"<html>not found</html>")
    message(path)
    torch.save([1, 2], path)
    assert "holds list" in message(path)
    torch.save({"epoch": 1}, path)
    assert "holds no tensors" in message(path)
    save_file(state, tmp_path / "b.safetensors")
    whole = (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(whole[:-9])
    assert "damaged" in message(tmp_path / "b.safetensors")


def test_a_head_loads_a_released_checkpoint(tmp_path: Path) -> None:
    settings = {"embd_dim": 8, "fpn_dim": 8, "head_dim": 8, "max_seq_len": 32, "n_mha_win_size": 5}
    torch.manual_seed(0)
    source = build_head(input_dim=4, num_classes=2, **settings)
    saved = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save(
        {"epoch": 1, "state_dict": {}, "state_dict_ema": saved, "optimizer": {}}, tmp_path / "a.pth.tar.pth"
    )
    head = build_head(input_dim=4, num_classes=2, weights=tmp_path / "a.pth.tar.pth", **settings)
    assert_same(head.state_dict(), source.state_dict())
    with pytest.raises(InputError, match=r"misshapen: cls_head\.cls_head\.conv\.weight"):
        build_head(input_dim=4, num_classes=3, weights=tmp_path / "a.pth.tar.pth", **settings)


def test_head_settings_nest_or_stand_alone() -> None:
    small = {"embd_dim": 8, "fpn_dim": 8, "head_dim": 8}
    nested = build_head(input_dim=4, num_classes=2, train_cfg={"droppath": 0.3}, **small)
    direct = build_head(input_dim=4, num_classes=2, droppath=0.3, **small)
    assert nested.config == direct.config
    assert direct.config.train_cfg.droppath == 0.3
    with pytest.raises(InputError, match=r"drop_path: no such setting, allowed are input_dim.* droppath"):
        build_head(input_dim=4, num_classes=2, drop_path=0.3)
