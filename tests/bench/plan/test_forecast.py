"""The forecast says what is measured: the same bytes, on a CPU."""

import dataclasses
import functools

import pytest
import torch

from bench.data.frame_store import FrameStore
from bench.models.backbones.tsm import tiny_tsm
from bench.plan.forecast import CPU, TraceSettings, forecast
from bench.training.inference import detect_all
from strategies import NAMED_GROUPS, build_strategy, installed, testing
from strategies.lofi import LoFi
from strategies.testing import CLASSES, TINY_PROTOCOL, tiny_detector, tiny_store, tiny_vit, train_tiny

NAMES = sorted(installed())
MIXING = {"adatad"}
MAIN = set(NAMED_GROUPS["default"])
QUICK = {"adatad", "etad", "lora", "token-pruning"}
"""Other strategies, each of which has a code path of its own."""


def slow_unless(quick, *values):
    return pytest.param(*values, marks=() if quick else pytest.mark.slow)


INSTANCES = 3


@pytest.fixture(autouse=True)
def equal_windows(monkeypatch):
    """Give every synthetic video one window with all of its instances: what a step holds is then constant."""

    def store(backbone, protocol=TINY_PROTOCOL):
        whole = tiny_store(backbone, protocol, videos=1)
        names = [f"video{number}" for number in range(4)]
        videos = {name: dataclasses.replace(whole.videos["video0"], id=name) for name in names}
        return FrameStore(videos, dict.fromkeys(names, whole.clips["video0"]))

    monkeypatch.setattr("strategies.testing.tiny_store", store)


def build(strategy, protocol, make_backbone=tiny_vit):
    return functools.partial(tiny_detector, strategy, protocol, make_backbone)


@pytest.mark.parametrize(
    ("name", "backward"),
    [
        slow_unless(
            ((name in MAIN or name in QUICK) and mode == ("plain" if name in MIXING else "streamed"))
            or (name in MAIN and mode == "plain"),
            name,
            mode,
        )
        for name in NAMES
        for mode in ("plain", "checkpointed", "streamed")
        if (name, mode) not in {(each, "streamed") for each in MIXING}  # refused
    ],
)
def test_the_same_bytes_as_the_tracker_on_real_tensors(name, backward):
    strategy = build_strategy(name)
    assert strategy.adapt(tiny_vit()).mixes_clips == (name in MIXING)
    check(strategy, dataclasses.replace(TINY_PROTOCOL, backward=backward, micro_batch_clips=2))


@pytest.mark.parametrize("name", [slow_unless(name in MAIN, name) for name in NAMES])
def test_the_same_bytes_where_windows_are_augmented(name):
    check(build_strategy(name), dataclasses.replace(TINY_PROTOCOL, augmentation="crop-flip"))


@pytest.mark.slow
def test_the_same_bytes_by_the_snippets_of_earlier_versions():
    check(build_strategy("lofi"), dataclasses.replace(TINY_PROTOCOL, snippet="step"))


@pytest.mark.parametrize("backward", [pytest.param("plain", marks=pytest.mark.slow), "streamed"])
def test_the_same_bytes_of_single_snippets(backward):
    protocol = dataclasses.replace(TINY_PROTOCOL, image_size=48, backward=backward, micro_batch_clips=1)
    check(LoFi(variant="t"), protocol, tiny_tsm)


def check(strategy, protocol, make_backbone=tiny_vit):
    trained = train_tiny(strategy, protocol, make_backbone)
    measured = {(entry.stage, entry.fidelity, entry.step): entry.reading for entry in trained.log.memory}
    store = testing.tiny_store(trained.detector.backbone, protocol)
    _, inference = detect_all(trained.detector, store, protocol, torch.device("cpu"))
    predicted = forecast(
        "tiny",
        strategy,
        protocol,
        TraceSettings(len(CLASSES), INSTANCES, CPU, passes_run=None),
        build=build(strategy, protocol, make_backbone),
    )
    for stage in predicted.stages:
        reading = measured.pop((stage.stage, stage.fidelity, stage.step), None)
        if reading is None:  # twelve steps do not reach every fidelity of a cycle
            continue
        assert stage.peak.peak_bytes == reading.peak_allocated_bytes, stage
        assert stage.peak.kinds == reading.kinds, stage
    assert not measured
    assert predicted.inference.peak_bytes == inference.peak_allocated_bytes
    assert predicted.inference.kinds == inference.kinds


@pytest.mark.parametrize("on_host", [True, False])
def test_averaged_weights_are_counted_by_both(on_host):
    lean = dataclasses.replace(TINY_PROTOCOL.lean, average_on_host=on_host)
    protocol = dataclasses.replace(TINY_PROTOCOL, ema_decay=0.9, lean=lean)
    strategy = build_strategy("full-finetune")
    [entry] = train_tiny(strategy, protocol).log.memory
    made = build(strategy, protocol)
    with_average, without = (
        forecast("tiny", strategy, each, TraceSettings(len(CLASSES), INSTANCES, CPU, passes_run=None), made)
        for each in (protocol, dataclasses.replace(protocol, ema_decay=None))
    )
    assert with_average.peak_bytes == entry.reading.peak_allocated_bytes
    assert with_average.highest.peak.kinds == entry.reading.kinds
    weights = sum(p.numel() * p.element_size() for p in made()[0].parameters() if p.requires_grad)
    assert with_average.peak_bytes == without.peak_bytes + weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["etad", "full-finetune", "lofi"])
def test_one_pass_over_made_gradients_stands_for_all_later_ones(name):
    protocol = dataclasses.replace(TINY_PROTOCOL, backward="streamed")
    strategy = build_strategy(name)
    short, whole = (
        forecast(
            "tiny",
            strategy,
            protocol,
            TraceSettings(len(CLASSES), INSTANCES, CPU, passes_run=passes),
            build(strategy, protocol),
        )
        for passes in (2, None)
    )
    for traced, real in zip(short.stages, whole.stages, strict=True):
        assert (traced.peak.peak_bytes, traced.peak.kinds) == (real.peak.peak_bytes, real.peak.kinds)
        assert traced.peak.phases["backward"] == real.peak.phases["backward"]
