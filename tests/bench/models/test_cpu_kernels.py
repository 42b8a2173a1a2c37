"""The layers for CPUs give the results and gradients of PyTorch's own ones."""

import pytest
import torch
import torch.nn.functional as F

from bench.models.actionformer.config import HeadConfig, TrainConfig
from bench.models.actionformer.model import ActionFormer
from bench.models.cpu_kernels import (
    apply_linear,
    depthwise_convolutions,
    kernels_of,
    linear,
    masked_convolution,
    uses_cpu_kernels,
)


def drawn(*shape):
    return torch.randn(*shape, generator=GENERATOR).requires_grad_()


GENERATOR = torch.Generator().manual_seed(0)


def assert_same(found, wanted, inputs):
    assert len(found) == len(wanted)
    gradients = [torch.randn(each.shape, generator=GENERATOR) for each in wanted]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert_gradients = (torch.autograd.grad(outputs, inputs, gradients) for outputs in (found, wanted))
    torch.testing.assert_close(*assert_gradients, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("width", "outputs"), [(8, 24), (8, 1), (1, 4), (1, 1)])
@pytest.mark.parametrize("biased", [True, False])
def test_products_are_those_of_pytorch(width, outputs, biased):
    x, weight, bias = drawn(2, 5, width), drawn(outputs, width), drawn(outputs) if biased else None
    inputs = [x, weight, *([bias] if biased else [])]
    assert_same([linear(x, weight, bias)], [F.linear(x, weight, bias)], inputs)


def test_an_expanded_gradient_is_accepted():
    x, weight = drawn(2, 5, 8), drawn(4, 8)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.detach().sum((0, 1)).expand(4, 8))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("outputs", "taps"), [(6, 3), (1, 3), (6, 1), (6, 5)])
def test_masked_convolutions_are_those_of_pytorch(batch, outputs, taps):
    x, weight, bias = drawn(batch, 12, 4), drawn(outputs, 4, taps), drawn(outputs)
    keep = (torch.arange(12) < 9).float()[None, :, None].repeat(batch, 1, 1)
    inside = torch.ones(1, 12 + taps // 2 * 2, 1)
    inside[:, 7] = 0
    gone = inside[:, taps // 2 : taps // 2 + 12]
    wanted = F.conv1d((x * gone).transpose(1, 2), weight, bias, padding=taps // 2).transpose(1, 2) * keep
    assert_same([masked_convolution(x, weight, bias, keep, inside)], [wanted], [x, weight, bias])


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolutions_are_those_of_pytorch(stride):
    x, weights = drawn(2, 12, 4), tuple(drawn(4, 1, 3) for _ in range(3))
    keep = (torch.arange(0, 12, stride) < 9).float()[None, :, None].repeat(2, 1, 1)
    wanted = [
        F.conv1d(x.transpose(1, 2), each, None, stride, 1, groups=4).transpose(1, 2) for each in weights
    ]
    found = depthwise_convolutions(x, weights, stride, keep)
    assert_same(list(found), [each * keep for each in wanted], [x, *weights])


def test_hooks_of_a_layer_run():
    layer, seen = torch.nn.Linear(4, 4), []
    layer.register_forward_hook(lambda *given: seen.append(1))
    apply_linear(layer, torch.ones(2, 4))
    assert seen == [1]


def test_kernels_follow_the_device_the_type_and_autocast():
    x = torch.ones(1)
    assert uses_cpu_kernels(x)
    assert not uses_cpu_kernels(x.to(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert not uses_cpu_kernels(x)
    with kernels_of("cuda"):
        assert not uses_cpu_kernels(x)
    assert uses_cpu_kernels(x)


@pytest.mark.parametrize(("window", "relative"), [(9, False), (9, True), (-1, False)])
def test_the_head_is_the_same_with_the_layers_of_both_devices(window, relative):
    train = TrainConfig(init_loss_norm=20.0, droppath=0.0)
    torch.manual_seed(0)
    head = ActionFormer(
        HeadConfig(
            *(6, 3),
            max_seq_len=64,
            backbone_arch=(2, 1, 3),
            regression_range=((0, 4), (4, 8), (8, 16), (16, 10000)),
            n_mha_win_size=window,
            use_rel_pe=relative,
            **dict.fromkeys(("embd_dim", "fpn_dim", "head_dim"), 16),
            train_cfg=train,
        )
    )
    features, mask = drawn(2, 6, 64), torch.arange(64)[None] < torch.tensor([[50], [64]])
    found = []
    for device in ("cpu", "cuda"):
        head.reset_loss_normalizer()
        with kernels_of(device):
            outputs = head(features, mask)
            segments = [torch.tensor([[3.0, 9.0], [20.0, 44.0]]), torch.tensor([[10.0, 60.0]])]
            losses = head.loss(outputs, segments, [torch.tensor([0, 2]), torch.tensor([1])])
        gradients = torch.autograd.grad(losses.total, [features, *head.parameters()])
        flat = [part for level in outputs for part in level[:2]]
        found.append((*flat, losses.cls, losses.reg, *gradients))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
