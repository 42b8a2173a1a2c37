"""Checkpoints by the names that projects really use, at small width: all of a backbone loads, or none."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.models.backbones.i3d import I3D, I3DConfig
from bench.models.backbones.tsm import TSMConfig, TSMResNet
from bench.models.backbones.vit import VideoViT
from bench.models.backbones.vit_config import ViTConfig
from bench.models.pretrained import LoadAudit, load_model
from bench.models.state_dict_layouts import I3D_LAYOUT, TSM_LAYOUT, VIT_LAYOUT, Layout

DEPTH = 12
PAIR = ("weight", "bias")
State = dict[str, Tensor]


def vit() -> VideoViT:
    return VideoViT(ViTConfig(width=24, depth=DEPTH, heads=2, image_size=32))


def tsm(depths: tuple[int, int, int, int] = (2, 2, 2, 2)) -> TSMResNet:
    return TSMResNet(TSMConfig("basic", depths, channels=(8, 8, 16, 16)))


def i3d() -> I3D:
    return I3D(I3DConfig(narrowing=8))


def randomised(model: nn.Module) -> State:
    torch.manual_seed(3)
    return {name: torch.randn_like(value) for name, value in model.state_dict().items()}


def loaded(model: nn.Module, path: Path, layout: Layout, expected: State) -> LoadAudit:
    """Load, check every value, and return the audit."""
    audit = load_model(model, path, layout)
    state = model.state_dict()
    assert set(audit.matched) == set(expected) == set(state)
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert audit.share == 1
    return audit


def zeros(*names: str) -> State:
    return {name: torch.zeros(2) for name in names}


def official_vit_names() -> list[str]:
    """Return the names of a VideoMAE fine-tuning model's encoder."""
    names = [f"patch_embed.proj.{part}" for part in PAIR]
    for index in range(DEPTH):
        block = f"blocks.{index}."
        names += [f"{block}{layer}.{part}" for layer in ("norm1", "norm2", "attn.proj") for part in PAIR]
        names += [f"{block}mlp.{layer}.{part}" for layer in ("fc1", "fc2") for part in PAIR]
        names += [f"{block}attn.{name}" for name in ("q_bias", "v_bias", "qkv.weight")]
    return names


def fine_tuned(state: State) -> State:
    return state | zeros("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")


def pre_trained(state: State) -> State:
    decoder = [f"decoder.blocks.{index}.attn.qkv.weight" for index in range(4)]
    encoder = {f"encoder.{name}": value for name, value in state.items()}
    others = ("encoder.norm.weight", "encoder.norm.bias", "decoder.head.weight", "decoder.norm.bias")
    return encoder | zeros(*others, *decoder, "encoder_to_decoder.weight", "mask_token")


def mmaction(state: State) -> State:
    renamed = {}
    for name, value in state.items():
        for ours, theirs in (
            ("patch_embed.proj.", "patch_embed.projection."),
            ("mlp.fc1.", "mlp.layers.0.0."),
            ("mlp.fc2.", "mlp.layers.1."),
        ):
            name = name.replace(ours, theirs)
        renamed[f"backbone.{name}"] = value
    others = ("backbone.pos_embed", "backbone.fc_norm.weight", "backbone.fc_norm.bias")
    return renamed | zeros(*others, "cls_head.fc_cls.weight", "cls_head.fc_cls.bias")


def test_the_official_names_are_the_models() -> None:
    assert set(official_vit_names()) == set(vit().state_dict())


@pytest.mark.parametrize(
    ("spell", "container", "reasons"),
    [
        (fine_tuned, "model", {"classifier": 2, "final norm": 2}),
        (fine_tuned, "module", {"classifier": 2, "final norm": 2}),
        (fine_tuned, None, {"classifier": 2, "final norm": 2}),
        (pre_trained, "model", {"decoder": 7, "mask": 1, "final norm": 2}),
        (pre_trained, "module", {"decoder": 7, "mask": 1, "final norm": 2}),
        (pre_trained, None, {"decoder": 7, "mask": 1, "final norm": 2}),
        (mmaction, "state_dict", {"classifier": 2, "final norm": 2, "positions": 1}),
    ],
)
def test_videomae_files(
    spell: Callable[[State], State], container: str | None, reasons: dict[str, int], tmp_path: Path
) -> None:
    state = randomised(vit())
    content: object = spell(state)
    if container:
        content = {container: content, "epoch": 799, "args": argparse.Namespace(lr=1e-3), "meta": {"seed": 0}}
    torch.save(content, tmp_path / "a.pth")
    audit = loaded(vit(), tmp_path / "a.pth", VIT_LAYOUT, state)
    counts = dict.fromkeys(reasons, 0)
    for _, reason in audit.left_out:
        counts[next(word for word in reasons if reason.startswith(word))] += 1
    assert counts == reasons
    assert audit.container == (container or "")


def test_videomae2_as_safetensors_of_a_wrapped_model(tmp_path: Path) -> None:
    state = randomised(vit())
    wrapped = {f"model.{name}": value for name, value in fine_tuned(state).items()}
    save_file(wrapped, tmp_path / "model.safetensors", metadata={"license": "cc-by-nc-4.0"})
    audit = loaded(vit(), tmp_path / "model.safetensors", VIT_LAYOUT, state)
    assert audit.licence == "cc-by-nc-4.0"


def test_image_checkpoints_of_resnets(tmp_path: Path) -> None:
    state = randomised(tsm())
    extra = zeros("fc.weight", "fc.bias")
    counters = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(7)
        for name in state
        if name.endswith("running_mean")
    }
    save_file(state | extra | counters, tmp_path / "timm.safetensors")
    audit = loaded(tsm(), tmp_path / "timm.safetensors", TSM_LAYOUT, state)
    assert {reason for _, reason in audit.left_out} == {"classifier", "counter"}
    torch.save(state | extra, tmp_path / "torchvision.pth")  # the oldest of them have no counters
    loaded(tsm(), tmp_path / "torchvision.pth", TSM_LAYOUT, state)


def tsm_repository(state: State) -> State:
    spelt = {}
    for name, value in state.items():
        name = name.replace(".conv1.", ".conv1.net.") if name.startswith("layer") else name
        spelt[f"module.base_model.{name}"] = value
    return spelt | zeros("module.new_fc.weight", "module.new_fc.bias")


def test_kinetics_checkpoints_of_the_tsm_repository(tmp_path: Path) -> None:
    state = randomised(tsm())
    spelt = tsm_repository(state)
    assert "module.base_model.layer1.0.conv1.net.weight" in spelt
    assert "module.base_model.conv1.weight" in spelt
    content = {"epoch": 50, "arch": "resnet18", "state_dict": spelt, "best_prec1": torch.tensor(70.0)}
    torch.save(content, tmp_path / "TSM_kinetics.pth.tar")
    audit = loaded(tsm(), tmp_path / "TSM_kinetics.pth.tar", TSM_LAYOUT, state)
    assert dict(audit.left_out) == {
        "module.new_fc.weight": "classifier",
        "module.new_fc.bias": "classifier",
    }


def test_i3d_as_the_pytorch_port_names_it(tmp_path: Path) -> None:
    state = randomised(i3d())
    assert "Mixed_4f.b1b.conv3d.weight" in state
    extra = zeros("logits.conv3d.weight", "logits.conv3d.bias") | {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(1)
        for name in state
        if name.endswith("running_var")
    }
    torch.save(state | extra, tmp_path / "rgb_imagenet.pt")
    audit = loaded(i3d(), tmp_path / "rgb_imagenet.pt", I3D_LAYOUT, state)
    assert len(audit.left_out) == 2 + 57


def refusal(model: nn.Module, path: Path, layout: Layout) -> str:
    """Return the one line of a refusal, after which the model is as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_model(model, path, layout)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(randomised(tsm((3, 4, 6, 3))), path)
    assert "not in the model: layer1.2.conv1.weight" in refusal(tsm(), path, TSM_LAYOUT)
    torch.save(tsm_repository(randomised(tsm())) | zeros("module.base_model.layer2.0.nl.g.weight"), path)
    assert "not in the model: layer2.0.nl.g.weight" in refusal(tsm(), path, TSM_LAYOUT)
    torch.save(randomised(i3d()), path)
    assert "(0 of the model's 65 tensors do)" in refusal(tsm((1, 1, 1, 1)), path, TSM_LAYOUT)
    torch.save(randomised(TSMResNet(TSMConfig("basic", (2, 2, 2, 2), channels=(8, 8, 16, 32)))), path)
    message = refusal(tsm(), path, TSM_LAYOUT)
    assert "misshapen: layer4.0.conv1.weight (32, 16, 3, 3) for (16, 16, 3, 3)" in message


@pytest.mark.parametrize(
    "lost", ["patch_embed.proj.bias", "blocks.11.attn.q_bias", "blocks.0.mlp.fc2.weight"]
)
def test_one_tensor_less_than_all_is_refused(lost: str, tmp_path: Path) -> None:
    state = fine_tuned(randomised(vit()))
    del state[lost]
    torch.save({"model": state}, tmp_path / "a.pth")
    message = refusal(vit(), tmp_path / "a.pth", VIT_LAYOUT)
    assert f"(157 of the model's 158 tensors do); missing: {lost}" in message


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


def test_a_file_with_code_is_refused_by_every_family(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, layout in ((vit(), VIT_LAYOUT), (tsm(), TSM_LAYOUT), (i3d(), I3D_LAYOUT)):
        torch.save({"model": randomised(model), "hook": Harmful()}, tmp_path / "a.pth")
        assert "holds code" in refusal(model, tmp_path / "a.pth", layout)
    assert capsys.readouterr().out == ""


def test_an_audit_reads_well(tmp_path: Path) -> None:
    state = randomised(vit())
    torch.save({"model": pre_trained(state)}, tmp_path / "a.pth")
    first, *rest, last = load_model(vit(), tmp_path / "a.pth", VIT_LAYOUT).lines()
    assert first == "a.pth: 158 of 158 tensors matched under model, 10 left out, 0 missing, 0 misshapen"
    assert rest == [
        "  left out (final norm: features are taken before it): encoder.norm.weight, encoder.norm.bias",
        "  left out (decoder of the pre-training): decoder.head.weight, decoder.norm.bias, "
        "decoder.blocks.0.attn.qkv.weight, decoder.blocks.1.attn.qkv.weight, "
        "decoder.blocks.2.attn.qkv.weight and 2 more",
        "  left out (mask of the pre-training): mask_token",
    ]
    assert last.startswith("  sha256 ")
    assert len(last.split()[-1]) == 64
