"""Features in files: their formats, their times, and what is wrong with them in one line."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

from bench.config.presets import FEATURES
from bench.data.feature_clips import all_feature_clips, feature_clips
from bench.data.feature_files import features_sha256, read_features
from bench.data.feature_times import check_features
from bench.data.frame_loader import FrameLoader
from bench.data.frame_store import open_store, pictures_sha256
from bench.io.errors import InputError
from bench.models.backbones.features import FeatureBackbone
from datasets.annotations.dataset import Dataset, Instance, Video

PROTOCOL = dataclasses.replace(
    FEATURES,
    window_clips=16,
    feature_width=6,
    training_subset="training",
    evaluation_subset="testing",
)
STORED = np.random.default_rng(0).standard_normal((72, 6)).astype(np.float32)
VIDEO = Video("a", "training", 10.0, (Instance(1.0, 3.0, "x"),), frames_per_second=25.0)
"""10 s at 30 per second are 300 frames: 72 features of 16 frames, one every 4."""
MADE_BY = {"model": "vit-s", "weights": {"name": "w.pt", "sha256": "1" * 64}}


def dataset_in(folder, *videos):
    videos = videos or (VIDEO, dataclasses.replace(VIDEO, id="b", subset="testing"))
    return Dataset("own", "own", ("x",), videos, "0" * 64, folder / "a.json", folder, features=True)


def write(path, array):
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, array)
    else:
        torch.save(torch.from_numpy(array), path)


@pytest.mark.parametrize("name", ["a.npy", "v_a.npy", "a.NPY", "a.npz", "a.pt", "sub/a.npy"])
def test_formats_and_names(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".NPY":
        with path.open("wb") as file:
            np.save(file, STORED)
    else:
        write(path, STORED)
    clips = feature_clips(dataset_in(tmp_path), VIDEO, PROTOCOL)
    assert (clips.count, clips.valid_steps, clips.clip_bytes) == (72, 72, 24)
    assert np.array_equal(clips.part(0, 72)[:, 0], STORED)
    picked = clips.pick(np.minimum(np.arange(70, 75), 71))
    assert torch.equal(picked[:, 0], torch.from_numpy(STORED[[70, 71, 71, 71, 71]]))
    assert picked.dtype == torch.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(tmp_path, dtype):
    np.save(tmp_path / "a.npy", STORED.astype(dtype))
    clips = feature_clips(dataset_in(tmp_path), VIDEO, PROTOCOL)
    assert np.array_equal(clips.part(3, 5)[:, 0], STORED.astype(dtype).astype(np.float32)[3:5])


def test_the_named_array_of_several(tmp_path):
    np.savez(tmp_path / "a.npz", feats=STORED, other=STORED[:3])
    torch.save({"features": torch.from_numpy(STORED), "fps": 30.0}, tmp_path / "b.pt")
    for name in ("a.npz", "b.pt"):
        assert np.array_equal(read_features(tmp_path / name, "a"), STORED)
    np.savez(tmp_path / "c.npz", one=STORED, two=STORED)
    with pytest.raises(InputError, match=r"c\.npz: holds 2 arrays, allowed is one, or one called feats or"):
        read_features(tmp_path / "c.npz", "c")


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_files_that_would_run_code_or_hold_no_features_are_refused(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    torch.save({"feats": Evil()}, tmp_path / "b.pt")
    (tmp_path / "c.npz").write_bytes(b"no archive")
    np.save(tmp_path / "d.npy", np.zeros((3, 4, 5)))
    np.save(tmp_path / "e.npy", np.zeros((3, 4), dtype=np.int64))
    np.save(tmp_path / "f.npy", np.zeros((0, 4)))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError, match=path.name) as caught:
            read_features(path, "a")
        assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_hdf5_without_its_package_is_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "a.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"a\.h5: HDF5 files need the package h5py.*pip install h5py"):
        read_features(tmp_path / "a.h5", "a")


@pytest.mark.parametrize("name", ["a.h5", "a.hdf5", "all.h5"])
def test_hdf5_of_a_video_or_of_all(tmp_path, name):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / name, "w") as file:
        if name == "all.h5":
            file["v_a"], file["v_b"] = STORED, STORED[::-1]
        else:
            file["feats"] = STORED
    clips = feature_clips(dataset_in(tmp_path), VIDEO, PROTOCOL)
    assert np.array_equal(clips.part(0, 72)[:, 0], STORED)
    if name == "all.h5":
        found = all_feature_clips(dataset_in(tmp_path), dataset_in(tmp_path).videos, PROTOCOL)
        assert np.array_equal(found["b"].part(0, 72)[:, 0], STORED[::-1])


def test_times_are_actionformers(tmp_path):
    np.save(tmp_path / "a.npy", STORED)
    grid = feature_clips(dataset_in(tmp_path), VIDEO, PROTOCOL).grid
    steps = np.arange(72)
    assert np.allclose(grid.seconds(steps), (steps * 4 + 0.5 * 16) / 30)
    # thumos14.py: segment * fps / feat_stride - 0.5 * num_frames / feat_stride
    assert grid.steps(3.0) == pytest.approx(3.0 * 30 / 4 - 0.5 * 16 / 4)
    own = dataclasses.replace(PROTOCOL, frame_rate="video")
    np.save(tmp_path / "a.npy", STORED[:59])
    assert feature_clips(dataset_in(tmp_path), VIDEO, own).grid.seconds(5) == pytest.approx((20 + 8) / 25)
    without = dataclasses.replace(VIDEO, frames_per_second=None)
    with pytest.raises(InputError, match=r"^a: no fps in the annotations or a table beside them, which"):
        feature_clips(dataset_in(tmp_path, without), without, own)


def test_a_clip_may_have_several_steps(tmp_path):
    np.save(tmp_path / "a.npy", STORED[:37])
    protocol = dataclasses.replace(PROTOCOL, clip_stride=None, steps_per_clip=2)  # one every 8 frames
    clips = feature_clips(dataset_in(tmp_path), VIDEO, protocol)
    assert (clips.count, clips.valid_steps) == (19, 37)
    assert np.array_equal(clips.part(17, 19).reshape(4, 6), STORED[[34, 35, 36, 36]])
    assert clips.grid.seconds(3) == pytest.approx((3 * 8 + 4) / 30)


@pytest.mark.parametrize("count", [5, 16, 40])
def test_fixed_resampling_is_that_of_anet_py(tmp_path, count):
    stored = STORED[:count]
    np.save(tmp_path / "a.npy", stored)
    video = dataclasses.replace(VIDEO, duration=count * 16 / 15)
    protocol = dataclasses.replace(PROTOCOL, frames_per_second=15.0, clip_stride=None, resampling="fixed")
    clips = feature_clips(dataset_in(tmp_path, video), video, protocol)
    assert (clips.count, clips.valid_steps) == (16, 16)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(stored.T.copy())[None], size=16, mode="linear", align_corners=False
    )[0].T
    assert torch.equal(clips.pick(np.arange(16))[:, 0], wanted)
    assert torch.equal(torch.from_numpy(clips.part(3, 7))[:, 0], wanted[3:7])
    stride = ((count - 1) * 16 + 16) / 16  # anet.py, case 2: frames of a step; the first is centred
    assert clips.grid.seconds(4) == pytest.approx((4 * stride + 0.5 * stride) / 15)
    spread = dataclasses.replace(protocol, clip_frames=None)
    assert feature_clips(dataset_in(tmp_path, video), video, spread).grid.seconds(15.5) == pytest.approx(
        video.duration
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"clip_stride": 8},
            r"a\.npy: 72 features cover 19\.5 s \(one every 8 frames, 16 frames each, 30 frames per second"
            r"\), but the video lasts 10\.0 s, for which 36 are expected",
        ),
        ({"frames_per_second": 15.0}, r"cover 20\.0 s .* lasts 10\.0 s, for which 34 are expected"),
        ({"feature_width": 8}, r"72 features of 6 channels, the protocol's feature_width is 8"),
        ({"feature_width": 72}, r"72 features of 6 channels \(T and D are swapped\), the protocol's"),
        ({"clip_frames": None}, "field 'clip_frames' is none, with --model features the frames of a feature"),
    ],
)
def test_what_does_not_match_is_an_error_with_the_numbers(tmp_path, change, message):
    np.save(tmp_path / "a.npy", STORED)
    with pytest.raises(InputError, match=message):
        feature_clips(dataset_in(tmp_path), VIDEO, dataclasses.replace(PROTOCOL, **change))


def test_a_rate_four_percent_off_is_found_in_a_video_of_two_minutes(tmp_path):
    video = dataclasses.replace(VIDEO, duration=120.0)
    for rate, fits in ((25, True), (24, False)):
        count = (120 * 25 - 16) // 4 + 1
        np.save(tmp_path / "a.npy", np.zeros((count, 6), np.float32))
        protocol = dataclasses.replace(PROTOCOL, frames_per_second=float(rate))
        if fits:
            feature_clips(dataset_in(tmp_path, video), video, protocol)
        else:
            with pytest.raises(InputError, match=f"{count} features cover"):
                feature_clips(dataset_in(tmp_path, video), video, protocol)


def test_wrong_files_are_counted_and_a_missing_one_is_named(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", STORED[:20])
    with pytest.raises(InputError, match=r"a\.npy: 20 features .*; 2 such errors, bench\.doctor --features"):
        check_features(dataset_in(tmp_path), PROTOCOL)
    np.save(tmp_path / "a.npy", STORED)
    (tmp_path / "b.npy").unlink()
    with pytest.raises(InputError, match=r"no file for video \"?'?b.*\.npy, \.npz, \.pt, \.h5, \.hdf5 after"):
        check_features(dataset_in(tmp_path), PROTOCOL)
    np.save(tmp_path / "b.npy", STORED)
    check_features(dataset_in(tmp_path), PROTOCOL)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["b.npy", "b.pt"])
def test_values_that_are_not_finite_are_found_before_a_run(tmp_path, name, value):
    np.save(tmp_path / "a.npy", STORED)
    spoilt = STORED.copy()
    spoilt[41, 3] = value
    write(tmp_path / name, spoilt)
    with pytest.raises(InputError, match=rf"{name}: feature 41 has values that are not finite$"):
        check_features(dataset_in(tmp_path), PROTOCOL)


def test_the_description_of_an_export_is_held_against_the_protocol(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", STORED)
    times = {"rate": 30.0, "window": 16.0, "stride": 4.0}
    content = {"times": times, "steps": {"a": 70, "b": 72}, **MADE_BY}
    (tmp_path / "features.json").write_text(json.dumps(content))
    dataset = dataset_in(tmp_path)
    found = all_feature_clips(dataset, dataset.videos, PROTOCOL)
    assert (found["a"].count, found["a"].valid_steps, found["b"].valid_steps) == (72, 70, 72)
    with pytest.raises(InputError, match=r"window of 16 frames and a stride of 4 at 30/s, .* stride of 8"):
        all_feature_clips(dataset, dataset.videos, dataclasses.replace(PROTOCOL, clip_stride=8))
    for steps in ({"a": 73}, {}):
        (tmp_path / "features.json").write_text(json.dumps({**content, "steps": steps}))
        with pytest.raises(InputError, match=r"72 features, but (73|0) by features\.json"):
            all_feature_clips(dataset, dataset.videos, PROTOCOL)
    for wrong in ([], {**content, "times": 3}, {**content, "steps": None}, {**content, "weights": "w"}):
        (tmp_path / "features.json").write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=r"features\.json: is no description"):
            all_feature_clips(dataset, dataset.videos, PROTOCOL)


def test_digests_change_with_the_values(tmp_path):
    def digests():
        dataset, loader = dataset_in(tmp_path), FrameLoader(0)
        store = open_store(dataset, "training", PROTOCOL, FeatureBackbone(6, 16).geometry, loader)
        loader.close()
        return features_sha256(dataset, ("training", "testing")), pictures_sha256(store)

    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", STORED)
    first = digests()
    assert digests() == first
    changed = STORED.copy()
    changed[36, 2] += 1
    np.save(tmp_path / "a.npy", changed)
    assert all(one != other for one, other in zip(digests(), first, strict=True))
