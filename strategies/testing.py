"""Tests of the contract of strategies, as functions that third-party tests can call.

    from strategies.testing import check_strategy
    def test_mine():
        check_strategy(MyStrategy())

Each check uses a tiny detector on synthetic clips on the CPU and raises AssertionError with a message.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable

import numpy as np
import torch

from bench.config.presets import MINIATURE
from bench.config.protocol import HeadSize, Protocol
from bench.data.clips import VideoClips
from bench.data.frame_store import FrameStore
from bench.data.time_grid import time_grid
from bench.data.windows import TrainingSampler
from bench.features.cache import EncodingStorage
from bench.features.disk_cache import DiskCache
from bench.features.streamed import clips_mix
from bench.models.actionformer.model import ActionFormer
from bench.models.backbone import Backbone
from bench.models.backbones.vit import VideoViT
from bench.models.backbones.vit_config import ViTConfig
from bench.models.random_state import derived_seed
from bench.training.detector import Detector, head_factory
from bench.training.history import TrainingLog
from bench.training.loop import train
from bench.training.step import Trainer
from datasets.annotations.dataset import Instance, Video
from strategies.base import Strategy, check_stages

CLASSES = ("one", "two", "three")
TINY_VIT = ViTConfig(
    width=32, depth=3, heads=4, image_size=32, patch_size=8, clip_frames=8, mean=(0.5,) * 3, std=(0.25,) * 3
)
TINY_PROTOCOL = dataclasses.replace(
    MINIATURE,
    window_clips=4,
    frozen_clips=2,
    steps=12,
    positions="interpolated",
    snippet="clip",
    head=HeadSize(
        embd_dim=16,
        head_dim=16,
        fpn_dim=16,
        n_head=2,
        n_mha_win_size=5,
        stem_layers=1,
        levels=3,
        init_loss_norm=5,
    ),
)

INERT = re.compile(r"head\..*\.key\.bias")
"""A constant added to every key does not change the softmax, so the head's key biases get no gradient."""


def tiny_vit() -> Backbone:
    """Return a small video transformer with random weights."""
    return VideoViT(TINY_VIT)


def tiny_store(geometry_of: Backbone, protocol: Protocol = TINY_PROTOCOL, videos: int = 4) -> FrameStore:
    """Return ``videos`` synthetic videos of 4 to 7 clips with three instances each."""
    geometry = geometry_of.geometry
    clip_seconds = geometry.clip_frames / protocol.frames_per_second
    grid = time_grid(protocol.frames_per_second, geometry, protocol.steps_per_clip, protocol.clip_stride)
    rng = np.random.default_rng(7)
    known, clips = {}, {}
    for number in range(videos):
        count = 4 + number % 4
        shape = (count, 3, geometry.clip_frames, protocol.image_size, protocol.image_size)
        pixels = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
        length = count * clip_seconds
        instances = tuple(
            Instance(length * first, length * last, CLASSES[(number + i) % len(CLASSES)])
            for i, (first, last) in enumerate(((0.02, 0.12), (0.15, 0.4), (0.45, 0.98)))
        )
        name = f"video{number}"
        known[name] = Video(name, "training", length, instances)
        source = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
        clips[name] = VideoClips(pixels, count * grid.steps_per_clip - number % 2, grid, source)
    return FrameStore(known, clips)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A tiny training run: the detector after it, the log, and the parameters before it."""

    detector: Detector
    log: TrainingLog
    before: dict[str, torch.Tensor]


def adapted(strategy: Strategy, backbone: Backbone) -> Backbone:
    """Return what the strategy makes of a backbone."""
    found = strategy.adapt(backbone)
    kind = type(found).__name__
    assert isinstance(found, Backbone), (
        f"adapt() returns {kind}; it must return the backbone or one around it"
    )
    return found


def tiny_detector(
    strategy: Strategy,
    protocol: Protocol = TINY_PROTOCOL,
    make_backbone: Callable[[], Backbone] = tiny_vit,
    seed: int = 0,
) -> tuple[Detector, Callable[[], ActionFormer]]:
    """Return the detector that the checks train, and a function that creates a new head."""
    torch.manual_seed(derived_seed(seed, "backbone"))
    backbone = adapted(strategy, make_backbone())
    fresh_head = head_factory(strategy, protocol, backbone, len(CLASSES), seed)
    return Detector(backbone, fresh_head()), fresh_head


def train_tiny(
    strategy: Strategy,
    protocol: Protocol = TINY_PROTOCOL,
    make_backbone: Callable[[], Backbone] = tiny_vit,
    seed: int = 0,
    open_disk: Callable[[Backbone, Protocol], DiskCache] | None = None,
) -> Trained:
    """Train the strategy on synthetic videos with one thread; ``open_disk`` may add a disk cache."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        detector, fresh_head = tiny_detector(strategy, protocol, make_backbone, seed)
        disk = open_disk(detector.backbone, protocol) if open_disk else None
        before = {name: value.detach().clone() for name, value in detector.state_dict().items()}
        sampler = TrainingSampler(tiny_store(detector.backbone, protocol), protocol, CLASSES, seed)
        storage = EncodingStorage(disk)
        trainer = Trainer(detector, protocol, sampler, torch.device("cpu"), storage=storage)
        log = train(trainer, strategy.stages(), fresh_head)
        return Trained(detector, log, before)
    finally:
        torch.set_num_threads(threads)


def check_stages_are_sound(strategy: Strategy) -> None:
    """Check that stages have unique names and shares that add up to 1, and that every rule matches."""
    check_stages(strategy.stages())
    detector, _ = tiny_detector(strategy)
    for stage in strategy.stages():
        assert detector.learning_rates(stage), f"stage {stage.name} trains nothing"


def check_shapes_are_kept(strategy: Strategy, make_backbone: Callable[[], Backbone] = tiny_vit) -> None:
    """Check that the adapted backbone takes the same input and returns features of the same shape.

    Their channels may differ if ``geometry.width`` says so.
    """
    plain = make_backbone()
    geometry = plain.geometry
    size = geometry.image_size
    clips = torch.randn(2, 3, 3, geometry.clip_frames, size, size)
    expected = plain.eval()(clips)
    changed = adapted(strategy, plain).eval()
    found = changed(clips).shape
    width = changed.geometry.width
    assert found == (len(expected), width, expected.shape[2]), (
        f"the shape of the features is {tuple(found)}, and {tuple(expected.shape)} without adapt(); only the "
        f"channels may change, to geometry.width, which is {width}"
    )
    channels = {"width": 0, "layer_widths": ()}
    before, after = ({**dataclasses.asdict(each), **channels} for each in (geometry, changed.geometry))
    assert before == after, "adapt() changes the geometry of the input"


def check_starts_from_backbone(strategy: Strategy, make_backbone: Callable[[], Backbone] = tiny_vit) -> None:
    """Check that the untrained adapted backbone returns the features of the plain one, bit for bit."""
    plain = make_backbone().eval()
    size = plain.geometry.image_size
    clips = torch.randn(2, 3, 3, plain.geometry.clip_frames, size, size)
    expected = plain(clips)
    assert torch.equal(strategy.adapt(plain).eval()(clips), expected), "the first features differ"


def check_only_named_parameters_move(strategy: Strategy) -> None:
    """Check that training changes all parameters that the rules name, and no others, nor buffers."""
    # Without weight decay, which moves weights whose gradient is zero.
    trained = train_tiny(strategy, dataclasses.replace(TINY_PROTOCOL, weight_decay=0.0))
    names = [name for name, _ in trained.detector.named_parameters()]
    moving = trained.detector.trained_names(strategy.stages())
    after = trained.detector.state_dict()
    for name in names:
        same = torch.equal(after[name], trained.before[name])
        assert name not in moving or not same or INERT.fullmatch(name), f"{name} should change and did not"
        assert name in moving or same, f"{name} matches no rule and changed"
    for name, buffer in trained.detector.named_buffers():
        frozen = not any(moved.startswith("backbone.") for moved in moving)
        if frozen and name.startswith("backbone.") and name in after:
            assert torch.equal(buffer, trained.before[name]), f"buffer {name} of a frozen backbone changed"


def check_is_deterministic(strategy: Strategy) -> None:
    """Check that the same seed gives the same losses and the same weights, bit for bit."""
    first, second = train_tiny(strategy), train_tiny(strategy)
    assert first.log.losses == second.log.losses, "losses differ between two runs of one seed"
    other = second.detector.state_dict()
    for name, value in first.detector.state_dict().items():
        assert torch.equal(value, other[name]), f"{name} differs between two runs of one seed"


def check_settings_round_trip(strategy: Strategy) -> None:
    """Check that the recorded fields reproduce the same strategy."""
    assert dataclasses.is_dataclass(strategy), "a strategy is a frozen dataclass"
    fields = dataclasses.asdict(strategy)
    assert type(strategy)(**fields) == strategy, "the recorded fields do not reproduce the strategy"


def step_peak_bytes(strategy: Strategy) -> int:
    """Return the largest tracked peak of a training step of any of the strategy's stages.

    Frames are twice as large as in the other checks, so that, as in published sizes, a clip has many more
    tokens than an adapter keeps after pooling.
    """
    protocol = dataclasses.replace(TINY_PROTOCOL, image_size=64)
    config = dataclasses.replace(TINY_VIT, image_size=64)
    trained = train_tiny(strategy, protocol, lambda: VideoViT(config))
    return max(entry.reading.peak_allocated_bytes for entry in trained.log.memory)


def check_mixing_is_declared(strategy: Strategy, make_backbone: Callable[[], Backbone] = tiny_vit) -> None:
    """Check that a backbone whose clips mix says so by ``mixes_clips``."""
    backbone = adapted(strategy, make_backbone())
    assert backbone.mixes_clips or not clips_mix(backbone), (
        f"clips mix in {type(backbone).__name__}, and its mixes_clips is false, so clips would be encoded "
        "without their window; insert modules that relate clips by insert_after_layers(..., mixes=True), or "
        "set mixes_clips of a Backbone of your own to True"
    )
    said = getattr(strategy, "mixes_clips", False)
    assert said == backbone.mixes_clips, (
        f"mixes_clips is {said} for the strategy and {backbone.mixes_clips} for the adapted backbone; "
        "they must be equal"
    )


def check_strategy(strategy: Strategy) -> None:
    """Run all checks of the contract on a strategy."""
    check_stages_are_sound(strategy)
    check_shapes_are_kept(strategy)
    check_mixing_is_declared(strategy)
    check_only_named_parameters_move(strategy)
    check_is_deterministic(strategy)
    check_settings_round_trip(strategy)
