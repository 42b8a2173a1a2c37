"""One crop and flip for all frames of a window: drawn from seed, epoch and video, and from nothing else."""

import dataclasses

import pytest
import torch

from bench.data.augmentation import AREA, CropFlip, random_crop_flips
from bench.data.frame_store import FrameStore
from bench.data.windows import TrainingSampler, Window, window_frames
from bench.features.cache import EncodingCache, EncodingStorage, batch_clips
from bench.features.disk_cache import DiskCache
from bench.features.encode import ClipPasses, encode_frozen
from bench.training.inference import detect_all
from bench.training.step import Trainer, setup_stage
from strategies import build_strategy
from strategies.head_only import HeadOnly
from strategies.losa import LoSA
from strategies.testing import CLASSES, TINY_PROTOCOL, tiny_detector, tiny_store, tiny_vit, train_tiny

AUGMENTED = dataclasses.replace(TINY_PROTOCOL, augmentation="crop-flip")
WHOLE = CropFlip(0.0, 0.0, 1.0, 1.0, False)


@pytest.fixture
def store():
    return tiny_store(tiny_vit(), videos=8)


def sampler(store, seed=0, **changes):
    return TrainingSampler(store, dataclasses.replace(AUGMENTED, **changes), CLASSES, seed)


def drawn(sampler, epoch):
    """The view of every video in an epoch."""
    size = sampler.steps_per_epoch
    windows = [w for step in range(epoch * size, (epoch + 1) * size) for w in sampler.windows(step)]
    return {window.video: window.view for window in windows}


def test_a_view_follows_from_seed_epoch_and_video_alone(store):
    first = drawn(sampler(store), 0)
    assert first.keys() == store.videos.keys()
    assert len(set(first.values())) == len(first)
    assert drawn(sampler(store, batch_size=4, steps=99), 0) == first
    shuffled = FrameStore(dict(reversed(store.videos.items())), store.clips)
    assert drawn(sampler(shuffled), 0) == first
    for other in (drawn(sampler(store), 1), drawn(sampler(store, seed=1), 0)):
        assert all(other[name] != view for name, view in first.items())


def test_orders_and_places_of_windows_are_those_without_augmentation(store):
    plain = TrainingSampler(store, TINY_PROTOCOL, CLASSES, 0)
    for step in range(8):
        found = sampler(store).windows(step)
        assert [dataclasses.replace(window, view=None) for window in found] == plain.windows(step)


def test_views_keep_their_bounds():
    import numpy as np

    found = random_crop_flips(np.random.default_rng(0), 2000)
    areas = [(view.bottom - view.top) * (view.right - view.left) for view in found]
    assert min(areas) > 0.9 * AREA[0]
    assert max(areas) <= 1
    assert all(0 <= v.top < v.bottom <= 1 + 1e-12 and 0 <= v.left < v.right <= 1 + 1e-12 for v in found)
    assert 0.45 < sum(view.flip for view in found) / len(found) < 0.55


def test_all_frames_of_a_window_are_changed_alike():
    picture = torch.randint(0, 256, (3, 1, 20, 20), dtype=torch.uint8)
    still = picture.expand(5, 3, 8, 20, 20).contiguous()
    seen = CropFlip(0.1, 0.25, 0.9, 1.0, True).of(still)
    assert (seen.shape, seen.dtype) == (still.shape, torch.uint8)
    assert torch.equal(seen, seen[:1, :, :1].expand_as(seen))
    assert not torch.equal(seen, still)


def test_a_view_crops_and_flips_what_it_says():
    frames = torch.randint(0, 256, (2, 3, 4, 16, 16), dtype=torch.uint8)
    assert torch.equal(WHOLE.of(frames), frames)
    assert torch.equal(dataclasses.replace(WHOLE, flip=True).of(frames), frames.flip(-1))
    half = torch.zeros(1, 3, 1, 16, 16, dtype=torch.uint8)
    half[..., 8:] = 200  # bright on the right
    assert (CropFlip(0.0, 0.5, 1.0, 1.0, False).of(half) == 200).all()
    assert (CropFlip(0.25, 0.0, 1.0, 0.5, True).of(half) == 0).all()
    flipped = CropFlip(0.0, 0.25, 1.0, 0.75, True).of(half)
    assert flipped[..., :6].min() == 200
    assert flipped[..., -6:].max() == 0


def test_training_sees_augmented_windows_and_tests_do_not(store):
    windows = sampler(store).windows(0)
    plain = [dataclasses.replace(window, view=None) for window in windows]
    seen, whole = batch_clips(store, windows), batch_clips(store, plain)
    for row, window in enumerate(windows):
        assert torch.equal(seen[row], window.view.of(whole[row]))
    assert Window("video0", 0, 4).view is None


@pytest.mark.parametrize("name", ["head-only", "losa", "full-finetune"])
def test_training_never_takes_kept_encodings(name, tmp_path):
    strategy = build_strategy(name)
    detector, _ = tiny_detector(strategy, AUGMENTED)
    found = tiny_store(detector.backbone)
    disk = DiskCache(tmp_path, detector.backbone, ClipPasses(2), pytest.fail, worth=float("inf"))
    storage = EncodingStorage(disk)
    trainer = Trainer(detector, AUGMENTED, sampler(found), torch.device("cpu"), storage=storage)
    setup = setup_stage(trainer, strategy.stages()[0])
    if name == "full-finetune":
        assert setup.cache is None
        return
    assert not setup.cache.keep
    assert setup.cache.disk is None
    train_tiny(strategy, AUGMENTED, open_disk=lambda backbone, protocol: disk)
    assert not list(tmp_path.rglob("*.encoding"))


def test_a_window_with_a_view_is_not_answered_from_a_cache(store):
    backbone = tiny_vit().eval()
    cache = EncodingCache(backbone, store, ClipPasses(2))
    window = sampler(store).windows(0)[0]
    plain = cache.batch([dataclasses.replace(window, view=None)], torch.device("cpu"))[0][0]
    (expected,) = encode_frozen(backbone, window_frames(store, window), ClipPasses(2))
    assert torch.equal(cache.batch([window], torch.device("cpu"))[0][0], expected)
    assert not torch.equal(plain, expected)


def test_inference_keeps_encodings_and_sees_whole_frames(tmp_path):
    detector, _ = tiny_detector(HeadOnly())
    found = tiny_store(detector.backbone)
    disk = DiskCache(tmp_path, detector.backbone, ClipPasses(2), pytest.fail, worth=float("inf"))
    results = [
        detect_all(detector, found, protocol, torch.device("cpu"), storage=EncodingStorage(kept))[0]
        for protocol, kept in ((TINY_PROTOCOL, None), (AUGMENTED, disk), (AUGMENTED, disk))
    ]
    assert len(list(tmp_path.rglob("*.encoding"))) == len(found.videos)
    assert disk.read_videos == len(found.videos) - 1  # the longest is measured, and computed each time
    scores = [[each.scores.tolist() for each in result] for result in results]
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize("strategy", [HeadOnly(), LoSA()], ids=lambda strategy: strategy.name)
def test_the_cache_option_changes_no_bit_and_augmentation_does(strategy):
    runs = [
        train_tiny(strategy, dataclasses.replace(protocol, cache=cache)).log
        for protocol, cache in ((AUGMENTED, True), (AUGMENTED, False), (TINY_PROTOCOL, False))
    ]
    assert runs[0].losses == runs[1].losses
    assert runs[0].memory == runs[1].memory
    assert runs[0].losses != runs[2].losses
