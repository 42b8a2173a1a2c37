"""What the convolutional backbones have in common: stored norms, checkpointing, tracing, taps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from checkpointed_gradients import check_checkpointing
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.io.errors import InputError
from bench.models import build_backbone
from bench.models.backbones.frozen_batch_norm import StoredBatchNorm
from bench.models.backbones.i3d import I3D, tiny_i3d
from bench.models.backbones.tsm import TSMResNet, tiny_tsm

each_family = pytest.mark.parametrize("tiny", [tiny_tsm, tiny_i3d])


def test_stored_statistics_are_those_of_evaluation_mode() -> None:
    torch.manual_seed(0)
    official = torch.nn.BatchNorm3d(4, eps=1e-3)
    official(torch.randn(2, 4, 3, 5, 5) * 3 + 1)
    ours = StoredBatchNorm(4, eps=1e-3)
    state = official.state_dict()
    del state["num_batches_tracked"]
    ours.load_state_dict(state, strict=True)
    x = torch.randn(2, 4, 3, 5, 5)
    torch.testing.assert_close(ours.train()(x), official.eval()(x), rtol=0, atol=0)
    assert torch.equal(ours.running_mean, state["running_mean"])


@each_family
def test_checkpointing_changes_no_gradient(tiny: Callable[[], TSMResNet | I3D]) -> None:
    torch.manual_seed(0)
    model = tiny()
    plain = check_checkpointing(model, torch.randn(1, 3, 16, 32, 32))
    assert all(gradient.abs().sum() > 0 for gradient in plain)


@pytest.mark.parametrize(("name", "frames"), [("tsm-r50", 8), ("i3d", 64)])
def test_traces_on_fake_tensors(name: str, frames: int) -> None:
    with FakeTensorMode():
        model = build_backbone(name)
        model.tokens(torch.randn(1, 3, frames, 224, 224)).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@each_family
def test_a_tap_that_does_not_exist_is_named(tiny: Callable[[], TSMResNet | I3D]) -> None:
    with pytest.raises(InputError, match=r"taps \(4,\): allowed .* 0 to 3"):
        tiny().layers(torch.zeros(1, 3, 8, 32, 32), (4,))
