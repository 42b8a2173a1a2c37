"""The reported peaks are those of the whole run, and do not depend on the length of a video."""

import contextlib
import dataclasses
import time
from unittest import mock

import numpy as np
import pytest
import torch

from bench.data.clips import VideoClips
from bench.data.frame_store import FrameStore
from bench.data.time_grid import time_grid
from bench.data.windows import TrainingSampler, Window
from bench.features.cache import EncodingCache, EncodingStorage
from bench.features.encode import ClipPasses
from bench.memory.constants import CACHED, FIRST_CACHED, UNCACHED
from bench.memory.meter import AllocatorPeaks, MemoryMeter, MemoryReading
from bench.memory.tracker import StorageTracker
from bench.training.inference import VideoDetections, detect_all
from bench.training.loop import train
from bench.training.step import Trainer
from datasets.annotations.dataset import Instance, Video
from strategies import NAMED_GROUPS, build_strategy, installed
from strategies.testing import CLASSES, TINY_PROTOCOL, tiny_detector, tiny_store, train_tiny

CPU = torch.device("cpu")
LENGTHS = (16, 100, 400)
FROZEN = ("head-only", "losa")


def store_of(backbone, clips, protocol=TINY_PROTOCOL):
    """Two videos of ``clips`` clips, with equal windows of three instances each."""
    geometry = backbone.geometry
    seconds = geometry.clip_frames / protocol.frames_per_second
    shape = (clips, 3, geometry.clip_frames, protocol.image_size, protocol.image_size)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    grid = time_grid(protocol.frames_per_second, geometry)
    found = tuple(Instance(at * seconds, (at + 0.5) * seconds, "one") for at in np.arange(0, clips, 4 / 3))
    names = ("a", "b")
    videos = {name: Video(name, "training", clips * seconds, found) for name in names}
    whole = VideoClips(frames, clips * geometry.steps_per_clip, grid)
    return FrameStore(videos, dict.fromkeys(names, whole))


def peaks_of(strategy, clips):
    """Return the peaks of training by kind of step, and that of inference."""
    detector, fresh_head = tiny_detector(strategy)
    protocol = dataclasses.replace(TINY_PROTOCOL, steps=8)
    store = store_of(detector.backbone, clips, protocol)
    trainer = Trainer(detector, protocol, TrainingSampler(store, protocol, CLASSES, 0), CPU)
    log = train(trainer, strategy.stages(), fresh_head)
    peaks = {entry.step: entry.reading.peak_allocated_bytes for entry in log.memory}
    _, reading = detect_all(detector, store, protocol, CPU)
    return {**peaks, "inference": reading.peak_allocated_bytes}


@pytest.mark.parametrize("name", FROZEN)
def test_cached_steps_and_inference_take_the_same_memory_however_long_the_videos_are(name):
    peaks = [peaks_of(build_strategy(name), clips) for clips in LENGTHS]
    assert set(peaks[0]) == {UNCACHED, FIRST_CACHED, CACHED, "inference"}
    for kind in peaks[0]:
        found = [each[kind] for each in peaks]
        assert max(found) <= 1.05 * min(found), (kind, found)


def tracked(function, *arguments, **more):
    """Return the result of a call, and the highest total of a tracker that sees all of it."""
    tracker = StorageTracker()
    detector = getattr(arguments[0], "detector", arguments[0])
    tracker.label_module(detector)
    with tracker:
        result = function(*arguments, **more)
    tracker.close()
    return result, max(peak.total for peak in tracker.peaks.values())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in NAMED_GROUPS["default"] else pytest.mark.slow)
        for name in sorted(installed())
    ],
)
def test_nothing_of_a_run_exceeds_the_reported_peak(name):
    strategy = build_strategy(name)
    detector, fresh_head = tiny_detector(strategy)
    protocol = dataclasses.replace(TINY_PROTOCOL, steps=24, ema_decay=0.9)
    store = tiny_store(detector.backbone, protocol)
    # The busiest window comes late, and its instances are many.
    many = tuple(Instance(0.01 * n, 0.01 * n + 0.4, CLASSES[n % 3]) for n in range(40))
    store = FrameStore(
        {**store.videos, "video3": dataclasses.replace(store.videos["video3"], instances=many)}, store.clips
    )
    sampler = TrainingSampler(store, protocol, CLASSES, 0)
    log, highest = tracked(train, Trainer(detector, protocol, sampler, CPU), strategy.stages(), fresh_head)
    reported = max(entry.reading.peak_allocated_bytes for entry in log.memory)
    assert 0.999 * reported <= highest <= reported
    (_, reading), highest = tracked(detect_all, detector, store, protocol, CPU)
    assert 0.999 * reading.peak_allocated_bytes <= highest <= reading.peak_allocated_bytes


def test_peaks_do_not_depend_on_what_fits_into_the_cache():
    strategy, found = build_strategy("losa"), []
    for budget in (None, 0):
        detector, fresh_head = tiny_detector(strategy)
        sampler = TrainingSampler(tiny_store(detector.backbone), TINY_PROTOCOL, CLASSES, 0)
        storage = EncodingStorage(memory_bytes=budget)
        trainer = Trainer(detector, TINY_PROTOCOL, sampler, CPU, storage=storage)
        found.append(train(trainer, strategy.stages(), fresh_head))
    assert found[0].losses == found[1].losses
    largest = [max(entry.reading.peak_allocated_bytes for entry in log.memory) for log in found]
    assert largest[0] == largest[1]
    assert [entry.step for entry in found[1].memory] == [UNCACHED, FIRST_CACHED]


class Card:
    """A card that works asynchronously: a queue of work that ends at a time, and an allocator's counters.

    The counters follow c10's ``Stat``: a reset sets a peak to the current value.
    """

    def __init__(self):
        self.busy_until = 0.0
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0

    def launch(self, seconds):
        self.busy_until = max(self.busy_until, time.perf_counter()) + seconds

    def wait(self, *_):
        time.sleep(max(0.0, self.busy_until - time.perf_counter()))

    def allocate(self, size):
        self.allocated += size
        self.reserved = max(self.reserved, self.allocated)
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        self.peak_reserved = max(self.peak_reserved, self.reserved)

    def free(self, size):
        self.allocated -= size

    def empty_cache(self):
        self.reserved = self.allocated

    def reset(self, *_):
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def simulated(self):
        return mock.patch.multiple(
            torch.cuda,
            synchronize=self.wait,
            empty_cache=self.empty_cache,
            reset_peak_memory_stats=self.reset,
            max_memory_allocated=lambda *_: self.peak_allocated,
            max_memory_reserved=lambda *_: self.peak_reserved,
        )


@pytest.fixture
def card(monkeypatch):
    card = Card()
    monkeypatch.setattr("bench.memory.meter.device_use", lambda device: (card.reserved + 500, "process"))
    with card.simulated():
        yield card


def test_the_peaks_of_inference_and_of_a_later_phase_are_their_own(card):
    training, inference = (MemoryMeter(torch.device("cuda")) for _ in range(2))
    for phase, size in (("backward", 30_000), ("optimizer", 5_000)):
        with training.phase(phase):
            card.allocate(size)
            card.free(size)
    with inference.phase("inference"):
        card.allocate(3_000)
        card.free(3_000)
    assert training.cuda_peaks["optimizer"] == {"allocated": 5_000, "reserved": 5_000, "device": 5_500}
    assert inference.cuda_peaks["inference"] == {"allocated": 3_000, "reserved": 3_000, "device": 3_500}


def test_peaks_of_steps_without_a_meter_are_read_from_the_allocator(card):
    peaks = AllocatorPeaks(torch.device("cuda"))
    for size in (4_000, 9_000, 2_000):
        with peaks.watching():
            card.allocate(size)
            card.free(size)
    [entry] = train_tiny(build_strategy("full-finetune")).log.memory
    low = dataclasses.replace(entry.reading, peak_allocated_bytes=5_000, peak_reserved_bytes=6_000)
    found = peaks.added_to(low)
    assert (found.peak_allocated_bytes, found.peak_reserved_bytes) == (9_000, 9_000)
    assert found.peak_device_bytes == 9_500


@pytest.mark.parametrize("most", ["video0", "video3"])
def test_reserved_memory_of_inference_is_that_of_all_videos_and_not_of_training(most, card, monkeypatch):
    """Fails where videos run before the longest one, whose meter empties the allocator's cache."""

    def detect(detector, store, protocol, device, cache, name):
        size = 4_000 if name == most else 3_000
        card.allocate(size)
        card.free(size)
        return VideoDetections(name, *(np.zeros(0) for _ in range(3)))

    monkeypatch.setattr("bench.training.inference.detect", detect)
    detector, _ = tiny_detector(build_strategy("head-only"))
    store = tiny_store(detector.backbone)
    assert max(store.clips, key=lambda name: store.clips[name].count) == "video3"
    card.allocate(30_000)
    card.free(30_000)
    found, reading = detect_all(detector, store, TINY_PROTOCOL, torch.device("cuda"))
    assert [each.video for each in found] == ["video0", "video1", "video2", "video3"]
    assert (reading.peak_reserved_bytes, reading.peak_device_bytes) == (4_000, 4_500)


def test_a_step_that_fits_into_memory_after_a_measured_one_did_not_raises_the_peak(monkeypatch):
    """Fails where the allocator's peaks of a cached step need a measured cached step."""
    read = []

    @contextlib.contextmanager
    def watching(self):
        computed = sum(cache.computed for cache in caches)
        yield
        read.append(computed == sum(cache.computed for cache in caches))
        self.allocated = 10**9 if read[-1] else 1

    caches, create = [], EncodingCache.__init__

    def noted(self, *arguments, **more):
        create(self, *arguments, **more)
        caches.append(self)

    monkeypatch.setattr(EncodingCache, "__init__", noted)
    monkeypatch.setattr(AllocatorPeaks, "watching", watching)
    strategy = build_strategy("head-only")
    detector, fresh_head = tiny_detector(strategy)
    protocol = dataclasses.replace(TINY_PROTOCOL, steps=60, batch_size=1)
    store = tiny_store(detector.backbone, protocol)
    whole = EncodingCache(detector.backbone.eval(), store, ClipPasses(protocol.frozen_clips))
    whole.load([Window("video3", 0, 4)])
    storage = EncodingStorage(memory_bytes=whole._kept_bytes)  # two passes; some windows need three
    trainer = Trainer(detector, protocol, TrainingSampler(store, protocol, CLASSES, 1), CPU, storage=storage)
    log = train(trainer, strategy.stages(), fresh_head)
    assert any(read)
    assert [entry.step for entry in log.memory] == [UNCACHED, FIRST_CACHED]
    assert log.memory[1].reading.peak_allocated_bytes == 10**9


@pytest.mark.parametrize("decay", [None, 0.999])
def test_the_seconds_of_a_step_are_those_of_the_card(card, decay, monkeypatch):
    forward, backward = 0.01, 0.03

    def step(self, number, fidelity, cache, optimizer, meter):
        card.launch(forward)
        card.wait()  # the losses are read
        card.launch(backward)  # nobody waits for the rest
        return 1.0, 1.0

    strategy = build_strategy("full-finetune")
    protocol = dataclasses.replace(TINY_PROTOCOL, steps=20, ema_decay=decay)
    detector, fresh_head = tiny_detector(strategy, protocol)
    sampler = TrainingSampler(tiny_store(detector.backbone), protocol, CLASSES, 0)
    trainer = Trainer(detector, protocol, sampler, CPU)
    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr("bench.training.optimizer.StageOptimizer.check_gradients", lambda *_: None)
    monkeypatch.setattr("bench.training.step_memory.synchronize", card.wait)
    nothing = MemoryReading("cpu-tensors", 1, None, None, {}, {})
    monkeypatch.setattr(MemoryMeter, "reading", lambda self: nothing)
    monkeypatch.setattr("bench.training.optimizer.AveragedWeights.update", lambda self: card.wait())
    log = train(trainer, strategy.stages(), fresh_head)
    assert log.step_seconds["end-to-end"] == pytest.approx(forward + backward, rel=0.3)
