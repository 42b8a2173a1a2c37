"""The cache of encodings: bounded in host memory, spilling to disk, and the same bits whatever it holds."""

import dataclasses

import numpy as np
import pytest
import torch

from bench.data import clips as clips_module
from bench.data.windows import Window
from bench.features.cache import EncodingCache, EncodingStorage
from bench.features.disk_cache import DiskCache
from bench.features.encode import ClipPasses, HostEncodings
from bench.features.encoding_file import HEADER_BYTES, EncodingFile
from bench.io.errors import InputError
from strategies.losa import LoSA
from strategies.testing import TINY_PROTOCOL, tiny_detector, tiny_store

CPU = torch.device("cpu")
PASSES = ClipPasses(TINY_PROTOCOL.frozen_clips)
WINDOWS = [Window("video3", 0, 4), Window("video3", 3, 4), Window("video0", 2, 4), Window("video2", 1, 4)]


@pytest.fixture(scope="module")
def backbone():
    return tiny_detector(LoSA())[0].backbone.eval()


def cache_of(backbone, memory_bytes=None, disk=None):
    storage = EncodingStorage(disk, memory_bytes)
    return EncodingCache(backbone, tiny_store(backbone), PASSES, storage=storage)


def batches(cache):
    """Return each window's encodings, asked for twice in different batches."""
    alone = [cache.batch([window], CPU) for window in WINDOWS]
    together = cache.batch(WINDOWS, CPU)
    for row, parts in enumerate(alone):
        assert all(torch.equal(part[0], whole[row]) for part, whole in zip(parts, together, strict=True))
    return together


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def pass_bytes(backbone):
    cache = cache_of(backbone)
    cache.batch(WINDOWS[:1], CPU)
    return next(iter(cache._kept.values())).nbytes


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_host_memory_stays_within_its_limit(passes, backbone, monkeypatch):
    """Fails where a whole video is kept: four videos have eleven passes."""
    limit = passes * pass_bytes(backbone)
    expected = batches(cache_of(backbone))
    cache, most = cache_of(backbone, limit), []
    keep = EncodingCache._keep

    def watched(self, key, encoded):
        keep(self, key, encoded)
        most.append(sum(each.nbytes for each in self._kept.values()))

    monkeypatch.setattr(EncodingCache, "_keep", watched)
    assert equal(batches(cache), expected)
    assert most
    assert max(most) <= limit
    assert cache._kept_bytes == sum(each.nbytes for each in cache._kept.values())


def test_what_memory_does_not_hold_is_read_from_disk(backbone, tmp_path):
    disk = DiskCache(tmp_path, backbone, PASSES, pytest.fail, worth=float("inf"))
    cache = cache_of(backbone, 0, disk)
    expected = batches(cache_of(backbone))
    assert equal(batches(cache), expected)
    computed = cache.computed
    assert equal(batches(cache), expected)
    assert cache.computed == computed == 4 + 1 + 3  # the passes of the three videos
    # Only the passes that were used are stored: the first pass of video0 is not.
    assert cache_of(backbone, 0, disk).disk.read(cache._disk_key(("video0", 0))) is None


def test_overlapping_windows_are_computed_once_where_the_first_use_is_measured(backbone, tmp_path):
    """Fails where every window of a measured video is computed anew."""
    disk = DiskCache(tmp_path, backbone, PASSES, pytest.fail, worth=float("inf"))
    cache = cache_of(backbone, None, disk)
    windows = [Window("video3", start, 4) for start in (0, 2, 3)]
    for number in (1, 2):
        with cache.computing():
            for window in windows:
                cache.batch([window], CPU)
        assert cache.computed == 4 * number  # its passes, though they are in memory and on disk


def test_a_default_limit_is_a_quarter_of_the_available_memory(backbone, monkeypatch):
    monkeypatch.setattr("bench.data.frame_loader.available_memory", lambda: 4000)
    assert cache_of(backbone).memory_bytes == 1000


def test_frames_are_read_in_parts(backbone, monkeypatch):
    cache, clip_bytes = cache_of(backbone), 3 * 8 * 32 * 32
    monkeypatch.setattr(clips_module, "PART_BYTES", 4 * clip_bytes)
    missing = [("video3", number) for number in (0, 1, 2, 3)] + [("video1", 2), ("video1", 0)]
    assert list(cache._runs(missing)) == [
        ("video1", 0, 2), ("video1", 4, 5), ("video3", 0, 4), ("video3", 4, 7)
    ]  # fmt: skip


def encodings(clips, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(clips)
    parts = (torch.randn(clips, 3, 2, generator=generator).to(dtype), torch.arange(clips * 5).view(clips, 5))
    return HostEncodings.of(parts, clips)


def same(first, second):
    return first.dtypes == second.dtypes and all(
        np.array_equal(a, b) for a, b in zip(first.arrays, second.arrays, strict=True)
    )


@pytest.fixture
def file(tmp_path):
    return EncodingFile(tmp_path / "a.encoding", "key of the file", 7, 3)


def test_passes_of_a_file_are_written_and_read_in_any_order(file):
    with pytest.raises(FileNotFoundError):
        file.read(0)
    for number, clips in ((2, 1), (0, 3)):
        file.write(number, encodings(clips))
    assert same(file.read(2), encodings(1))
    assert same(file.read(0), encodings(3))
    assert file.read(1) is None
    file.write(1, encodings(3))
    assert same(file.read(1), encodings(3))


@pytest.mark.parametrize("changed", [{"key": "another"}, {"clips": 8}, {"size": 2}])
def test_a_file_of_something_else_is_refused_and_replaced(changed, file):
    file.write(0, encodings(3))
    other = dataclasses.replace(file, **changed)
    with pytest.raises(InputError, match="damaged, or another video's"):
        other.read(0)
    other.write(0, encodings(other.size))
    assert same(other.read(0), encodings(other.size))
    with pytest.raises(InputError):
        file.read(0)


@pytest.mark.parametrize("place", [0, 20, HEADER_BYTES + 1, -1])
def test_a_changed_byte_is_noticed(place, file):
    file.write(0, encodings(3))
    content = bytearray(file.path.read_bytes())
    content[place] ^= 1
    file.path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="damaged"):
        file.read(0)


def test_a_pass_that_was_cut_while_it_was_written_is_not_taken(file):
    file.write(0, encodings(3))
    whole = file.path.read_bytes()
    file.write(1, encodings(3))
    after = file.path.read_bytes()
    # Killed after the data and before the digest, and in the middle of the data.
    file.path.write_bytes(whole[: HEADER_BYTES + 3 * 32] + after[HEADER_BYTES + 3 * 32 :])
    assert file.read(1) is None
    file.path.write_bytes(after[:-10])
    with pytest.raises(InputError, match="damaged"):
        file.read(1)
    assert same(file.read(0), encodings(3))


def test_a_link_is_not_written_through(file, tmp_path):
    file.write(0, encodings(3))
    target = tmp_path / "elsewhere"
    file.path.rename(target)
    file.path.symlink_to(target)
    before = target.read_bytes()
    with pytest.raises(OSError, match="symbolic links"):
        file.write(1, encodings(3))
    assert target.read_bytes() == before


def test_frames_of_later_windows_are_expected_unless_they_are_encoded(backbone, tmp_path, monkeypatch):
    disk = DiskCache(tmp_path, backbone, PASSES, pytest.fail, worth=float("inf"))
    cache, expected = cache_of(backbone, None, disk), []
    monkeypatch.setattr("bench.data.frame_store.FrameStore.expect", lambda self, runs: expected.append(runs))
    cache.expect(WINDOWS)
    assert expected == [[("video0", 2, 4), ("video2", 0, 6), ("video3", 0, 7)]]
    cache.batch(WINDOWS[2:3], CPU)
    # What was used is not expected again.
    assert expected[1] == [("video0", 2, 4), ("video0", 2, 4), ("video2", 0, 6), ("video3", 0, 7)]
    cache.batch(WINDOWS[3:], CPU)
    assert expected[2] == [("video2", 0, 6), ("video2", 0, 6), ("video3", 0, 7)]
    cache_of(backbone, 0, disk).expect(WINDOWS)
    assert expected[3] == [("video3", 0, 7)]
