"""Counted operations of a step, against those that PyTorch counts as it runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.features.encode import ClipPasses
from bench.features.streamed import encode_streamed
from bench.measure.operations import backbone_operations, layer_passes, measured_work, step_operations
from bench.models import build_backbone
from bench.plan.request import ForecastRequest
from strategies import build_strategy

CLIPS = 2


def request(strategy="full-finetune", model="vit-s", **changes):
    fields = {"image_size": "32", "window_clips": str(CLIPS), **changes}
    return ForecastRequest(model, strategy, {}, fields, "cpu")


def counted(mode):
    """Return the operations that PyTorch counts in the backbone of a step, by backward mode; None: frozen."""
    backbone = build_backbone("vit-s", image_size=32)
    backbone.eval()  # no branch is dropped; each is computed either way
    backbone.set_checkpointing(mode in ("checkpointed", "streamed"))
    clips = torch.randint(0, 256, (CLIPS, 3, 16, 32, 32), dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        if mode is None:
            with torch.no_grad():
                ClipPasses(CLIPS).encode(backbone, clips)
        elif mode == "streamed":
            encoded, finish = encode_streamed(backbone, clips, ClipPasses(1))
            encoded[0].sum().backward()
            finish()
        else:
            ClipPasses(CLIPS).encode(backbone, clips)[0].sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("mode", [None, "plain", "checkpointed", "streamed"])
def test_counted_operations_are_those_that_pytorch_counts(mode):
    asked = request("head-only") if mode is None else request(backward=mode)
    assert backbone_operations(asked) == pytest.approx(counted(mode), rel=0.01)


def test_only_plain_work_of_a_vit_is_counted():
    assert backbone_operations(request("losa")) is None
    assert backbone_operations(request("lofi")) is None
    assert backbone_operations(request(model="vit-t")) is None
    assert backbone_operations(ForecastRequest("i3d", "head-only", {}, {"window_clips": "2"}, "cpu")) is None


def test_estimates_are_not_below_what_is_counted():
    for mode in ("plain", "checkpointed", "streamed"):
        assert step_operations(request(backward=mode)) >= backbone_operations(request(backward=mode))
    assert layer_passes(request(backward="streamed")) == 5 * 2 * 12
    assert layer_passes(request("head-only")) == 12


def test_all_stages_and_fidelities_are_expected():
    question = request()
    assert measured_work(question) == (6 * step_operations(question), 6 * layer_passes(question))
    low = request("lofi", backward="plain")
    stages = build_strategy("lofi").stages()
    steps = sum(5 * len(set(stage.fidelities)) + 1 for stage in stages)
    assert steps > 12
    operations, passes = measured_work(low)
    assert passes == steps * layer_passes(low)
    assert operations < steps * step_operations(low)


def test_sampled_clips_run_in_passes_whatever_the_mode_is():
    assert layer_passes(request("etad")) == layer_passes(request("full-finetune", backward="streamed"))
    assert layer_passes(request("full-finetune")) < layer_passes(request("etad"))
