"""The forecast says what is measured: the same bytes on a CPU, the public logs of AdaTAD on CUDA."""

import dataclasses

import pytest

from bench.memory.forecast import CPU, forecast
from bench.models import build_head
from bench.step import Detector
from bench.windows import FrameStore
from strategies import build_strategy, installed
from strategies.testing import CLASSES, TINY_PROTOCOL, tiny_store, tiny_vit, train_tiny

NAMES = sorted(installed())
MODES = ("plain", "checkpointed", "streamed")
INSTANCES = 3


@pytest.fixture(autouse=True)
def equal_windows(monkeypatch):
    """Give every synthetic video one window with all of its instances: what a step holds is then constant."""

    def store(backbone, protocol=TINY_PROTOCOL):
        whole = tiny_store(backbone, protocol, videos=1)
        names = [f"video{number}" for number in range(4)]
        videos = {name: dataclasses.replace(whole.videos["video0"], id=name) for name in names}
        return FrameStore(videos, dict.fromkeys(names, whole.clips["video0"]), whole.grid)

    monkeypatch.setattr("strategies.testing.tiny_store", store)


def build(strategy, protocol):
    def detector():
        backbone = strategy.adapt(tiny_vit())
        keywords = protocol.head.keywords(protocol.window_clips * backbone.geometry.steps_per_clip)

        def fresh_head():
            return build_head(input_dim=backbone.geometry.width, num_classes=len(CLASSES), **keywords)

        return Detector(backbone, fresh_head()), fresh_head

    return detector


@pytest.mark.parametrize("backward", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bytes_as_the_tracker_on_real_tensors(name, backward):
    protocol = dataclasses.replace(TINY_PROTOCOL, backward=backward, micro_batch_clips=2)
    strategy = build_strategy(name)
    measured = {
        (entry.stage, entry.fidelity): entry.reading for entry in train_tiny(strategy, protocol).log.memory
    }
    predicted = forecast(
        "tiny",
        strategy,
        protocol,
        len(CLASSES),
        INSTANCES,
        CPU,
        passes_run=None,
        build=build(strategy, protocol),
    )
    for stage in predicted.stages:
        reading = measured.pop((stage.stage, stage.fidelity), None)
        if reading is None:  # twelve steps do not reach every fidelity of a cycle
            continue
        assert stage.peak_bytes == reading.peak_allocated_bytes, stage
        assert stage.kinds == reading.kinds, stage
    assert not measured
