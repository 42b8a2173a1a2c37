"""The controls have LoSA's number of parameters, and use what their names say and no more."""

import dataclasses

import pytest
import torch

from bench.config.presets import FEATURES, MINIATURE, STANDARD
from bench.config.protocol import HeadSize
from bench.models import build_backbone
from bench.models.backbones.features import FeatureBackbone
from bench.models.backbones.tsm import tiny_tsm
from bench.training.detector import Detector, head_factory
from bench.training.inference import detect_all
from strategies.controls.last_feature import MLPControl, TemporalControl
from strategies.controls.last_layer import LastLayerCells
from strategies.controls.wide_head import WideHead
from strategies.head_only import HeadOnly
from strategies.losa import LoSA
from strategies.testing import TINY_PROTOCOL, check_strategy, tiny_detector, tiny_store, tiny_vit

CLASS_COUNT = 20
BACKBONES = {
    "vit-t": lambda: build_backbone("vit-t"),
    "vit-b": lambda: build_backbone("vit-b"),
    "tsm-tiny": tiny_tsm,
    "features": lambda: FeatureBackbone(2048, 16, 1),
}
PROTOCOLS = {"vit-t": MINIATURE, "vit-b": STANDARD, "tsm-tiny": TINY_PROTOCOL, "features": FEATURES}


def on_meta(strategy, model):
    """Return a detector without values, with the head of the model's protocol."""
    with torch.device("meta"):
        backbone = strategy.adapt(BACKBONES[model]())
        return Detector(backbone, head_factory(strategy, PROTOCOLS[model], backbone, CLASS_COUNT, 0)())


def trained_parameters(strategy, model):
    """Return the numbers of parameters that a strategy trains in the backbone and in the head."""
    detector = on_meta(strategy, model)
    names = detector.trained_names(strategy.stages())
    sizes = {name: value.numel() for name, value in detector.named_parameters() if name in names}
    in_head = sum(size for name, size in sizes.items() if name.startswith("head."))
    return sum(sizes.values()) - in_head, in_head


@pytest.mark.parametrize("model", BACKBONES)
@pytest.mark.parametrize("control", [MLPControl(), TemporalControl()])
def test_blocks_have_the_parameters_of_losas_adapters(control, model):
    adapters, head = trained_parameters(LoSA(), model)
    block, same_head = trained_parameters(control, model)
    assert block == pytest.approx(adapters, rel=0.01)
    assert same_head == head


@pytest.mark.parametrize("model", BACKBONES)
def test_a_wide_head_has_the_parameters_of_losa_in_all(model):
    wanted = sum(trained_parameters(LoSA(), model))
    beside, head = trained_parameters(WideHead(), model)
    assert beside == 0
    assert head == pytest.approx(wanted, rel=0.02)
    assert head > trained_parameters(HeadOnly(), model)[1]


def test_a_wide_heads_widths_are_the_nearest():
    size = HeadSize(embd_dim=64, head_dim=32, fpn_dim=64, n_head=4)
    found = []

    def count(each):  # the square of the widths' sum: any function that grows with them
        assert each.embd_dim == each.fpn_dim
        assert each.embd_dim % 4 == 0
        found.append(each)
        return (each.embd_dim + each.head_dim) ** 2

    chosen = WideHead(parameters=96**2).head_size(size, tiny_vit(), count)
    widths = {each.embd_dim for each in found}
    best = min(
        ((embd, round(embd / 2)) for embd in range(64, 256, 4)), key=lambda e: abs(sum(e) ** 2 - 2 * 96**2)
    )
    assert chosen.embd_dim == best[0]
    assert abs(count(chosen) - 2 * 96**2) == min(
        abs((chosen.embd_dim + outputs) ** 2 - 2 * 96**2) for outputs in range(1, 256)
    )
    assert len(widths) < 20
    assert dataclasses.replace(chosen, embd_dim=64, head_dim=32, fpn_dim=64) == size
    assert WideHead(parameters=0).head_size(size, tiny_vit(), count) == size


def test_other_strategies_have_the_protocols_head():
    heads = [on_meta(strategy, "vit-t").head.config for strategy in (HeadOnly(), LoSA(), MLPControl())]
    assert heads[0] == heads[1] == heads[2]
    assert (heads[0].embd_dim, heads[0].head_dim) == (MINIATURE.head.embd_dim, MINIATURE.head.head_dim)


def test_a_wide_head_detects():
    detector, fresh_head = tiny_detector(WideHead())
    assert detector.head.config == fresh_head().config
    found, _ = detect_all(detector, tiny_store(detector.backbone), TINY_PROTOCOL, torch.device("cpu"))
    assert len(found) == 4


@pytest.mark.parametrize(
    "control", [WideHead(parameters=5000), LastLayerCells(grid=2), MLPControl(parameters=999)]
)
def test_other_settings_keep_the_contract(control):
    check_strategy(control)


@pytest.mark.parametrize(("control", "least"), [(WideHead, 0), (MLPControl, 1), (TemporalControl, 1)])
def test_bad_numbers_of_parameters_are_refused(control, least):
    with pytest.raises(ValueError, match=f"parameters: allowed is {least} or more, got {least - 1}"):
        control(parameters=least - 1)


def with_block(control, backbone=None):
    """Return an adapted backbone in double precision whose block changes the features."""
    torch.manual_seed(0)
    adapted = control.adapt(backbone or tiny_vit()).double().eval()
    torch.nn.init.normal_(adapted.block.up.weight)
    return adapted


@pytest.mark.parametrize(("control", "reach"), [(MLPControl(), 0), (TemporalControl(), 2)])
def test_how_far_a_step_reaches(control, reach):
    adapted = with_block(control)
    features = torch.randn(1, 12, 1, 32, dtype=torch.float64)  # B, clips, steps, D
    changed = features.clone()
    changed[:, 6] += torch.randn(32)
    mask = torch.ones(1, 12, dtype=torch.bool)
    with torch.no_grad():
        moved = (adapted.fuse((features,), mask) != adapted.fuse((changed,), mask)).any(dim=1)[0]
    assert moved.nonzero().flatten().tolist() == list(range(6 - reach, 7 + reach))


@pytest.mark.parametrize("control", [MLPControl(), TemporalControl()])
def test_padding_does_not_leak(control):
    adapted = with_block(control)
    features = torch.randn(1, 12, 1, 32, dtype=torch.float64)
    changed = features.clone()
    changed[:, 9:] = torch.randn(3, 1, 32, dtype=torch.float64)
    mask = torch.arange(12)[None] < 9
    with torch.no_grad():
        first, second = adapted.fuse((features,), mask), adapted.fuse((changed,), mask)
        # A window that ends there gives the same: beyond a video, every layer sees zeros.
        short = adapted.fuse((features[:, :9],), mask[:, :9])
    assert torch.equal(first[..., :9], second[..., :9])
    torch.testing.assert_close(first[..., :9], short, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("control", [MLPControl(), TemporalControl()])
def test_no_graph_in_the_backbone(control):
    adapted = control.adapt(tiny_vit())
    encoded = adapted.encode(torch.randn(2, 3, 8, 32, 32, requires_grad=True))
    assert [tuple(part.shape) for part in encoded] == [(2, 4, 32)]
    assert not encoded[0].requires_grad


def test_last_layer_cells_sees_the_last_layer_alone():
    for make_backbone in (tiny_vit, tiny_tsm):
        cells, losa = LastLayerCells().adapt(make_backbone()), LoSA().adapt(make_backbone())
        count = len(cells.geometry.layer_widths)
        assert cells.taps == (count - 1,)
        assert losa.taps == tuple(range(count))
        [own], last = cells.adapters, losa.adapters[-1]
        assert {n: p.shape for n, p in own.named_parameters()} == {
            n: p.shape for n, p in last.named_parameters()
        }
