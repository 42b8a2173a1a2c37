"""Exported features: what is written, what is kept, and that they stand in for their backbone to the bit."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from bench.data.clips import VideoClips
from bench.data.feature_clips import all_feature_clips
from bench.data.frame_store import FrameStore
from bench.data.time_grid import TimeGrid
from bench.data.windows import TrainingSampler
from bench.features import export
from bench.io.errors import InputError
from bench.models.backbones.features import FeatureBackbone
from bench.training.detector import Detector
from bench.training.inference import detect_all
from bench.training.loop import train
from bench.training.step import Trainer
from datasets.annotations.dataset import Dataset
from strategies.head_only import HeadOnly
from strategies.testing import CLASSES, TINY_PROTOCOL, tiny_detector, tiny_store, tiny_vit

CPU = torch.device("cpu")


def exported(folder, protocol, detector, store):
    """Export the features of a store; return the protocol, the store and the detector that use them."""
    backbone = detector.backbone
    steps = backbone.geometry.steps_per_clip
    target = export.feature_protocol(protocol, backbone, steps)
    times = export.times_of(target)
    settings = {"model": "tiny", "weights": {"name": "random", "sha256": None}}
    settings["times"] = dataclasses.asdict(times) if times else None
    count = export.export(
        folder, settings, store, lambda name: export.video_features(backbone, store, protocol, name, CPU)
    )
    assert count == len(store.videos)
    dataset = Dataset(
        "own", "own", CLASSES, tuple(store.videos.values()), "0" * 64, folder, folder, features=True
    )
    clips = all_feature_clips(dataset, dataset.videos, target)
    stand_in = FeatureBackbone(target.feature_width, target.clip_frames, target.steps_per_clip)
    return target, FrameStore(store.videos, clips), stand_in


def spread(clips, protocol, video):
    """Return as many clips as a window has, as if they were spread over the whole video."""
    count = protocol.window_clips
    frames = clips.pick(np.minimum(np.arange(count), clips.count - 1))
    grid = TimeGrid(count * frames.shape[2] / video.duration, 2, frames.shape[2] // 2)
    return VideoClips(frames, count * grid.steps_per_clip, grid)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head": dataclasses.replace(TINY_PROTOCOL.head, mask_input=True)},
        {"test_windows": "whole", "crop_ratio": (0.5, 1.0)},
        {"resampling": "fixed"},
        {"precision": "bfloat16"},
        {"cache": False},
    ],
    ids=lambda changes: "-".join(changes) or "default",
)
def test_features_in_files_give_the_results_of_their_backbone_to_the_bit(tmp_path, changes):
    protocol = dataclasses.replace(TINY_PROTOCOL, window_overlap=0.5, **changes)
    detector, fresh_head = tiny_detector(HeadOnly(), protocol)
    store = tiny_store(detector.backbone, protocol)
    if protocol.resampling == "fixed":
        store = FrameStore(
            store.videos,
            {name: spread(each, protocol, store.videos[name]) for name, each in store.clips.items()},
        )
    target, files, stand_in = exported(tmp_path, protocol, detector, store)
    results = []
    for used, frames, backbone in ((protocol, store, detector.backbone), (target, files, stand_in)):
        sampler = TrainingSampler(frames, used, CLASSES, seed=2)
        trained = Detector(backbone, fresh_head())
        log = train(Trainer(trained, used, sampler, CPU), HeadOnly().stages(), fresh_head)
        found, _ = detect_all(trained, frames, used, CPU)
        results.append((log.losses, trained.head.state_dict(), found))
    (losses, weights, found), (other_losses, other_weights, other_found) = results
    assert losses == other_losses
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    assert sum(len(each.segments) for each in found) > 0
    for one, other in zip(found, other_found, strict=True):
        assert np.array_equal(one.segments, other.segments)
        assert np.array_equal(one.scores, other.scores)
        assert np.array_equal(one.labels, other.labels)


def made(count=3, width=2):
    return lambda name: np.full((count, width), len(name), np.float32)


def test_complete_files_are_kept_and_others_written(tmp_path):
    store = tiny_store(tiny_vit())
    assert export.export(tmp_path, {"model": "m"}, store, made()) == 4
    content = json.loads((tmp_path / "features.json").read_text())
    assert content["steps"] == {name: clips.valid_steps for name, clips in store.clips.items()}
    assert np.load(tmp_path / "video1.npy").dtype == np.float32
    (tmp_path / "video1.npy").unlink()
    (tmp_path / ".video1.npy.x.1.draft").write_bytes(b"cut")
    before = (tmp_path / "video0.npy").stat().st_mtime_ns
    done = []
    assert export.export(tmp_path, {"model": "m"}, store, made(), done.append) == 1
    assert (tmp_path / "video0.npy").stat().st_mtime_ns == before
    assert sum(done) == sum(clips.count for clips in store.clips.values())


def test_another_export_or_foreign_files_are_not_mixed_with(tmp_path):
    store = tiny_store(tiny_vit())
    export.export(tmp_path / "a", {"model": "m", "times": None}, store, made())
    with pytest.raises(InputError, match=r"features of another model, times; give another folder"):
        export.export(tmp_path / "a", {"model": "n", "times": {}}, store, made())
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "b" / "x.npy", np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"b holds \.npy files without features\.json"):
        export.export(tmp_path / "b", {}, store, made())
    (tmp_path / "c").write_bytes(b"")
    with pytest.raises(InputError, match="c cannot be written"):
        export.export(tmp_path / "c", {}, store, made())
