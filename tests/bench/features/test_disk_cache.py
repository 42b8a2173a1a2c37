"""Encodings on disk: the same bits as without, never another's, and no harm from what is spoilt."""

import collections
import dataclasses
import json

import pytest
import torch
from conftest import run_here

from bench.data.windows import Window
from bench.features.cache import EncodingCache, EncodingStorage
from bench.features.disk_cache import DiskCache, state_digest
from bench.features.encode import ClipPasses
from bench.records.record import read_folder
from bench.run.specification import RunSpecification, resolve_run
from bench.training.detector import Detector
from bench.training.inference import detect_all
from datasets.annotations.reader import read_annotations
from strategies.head_only import HeadOnly
from strategies.lofi import LoFi
from strategies.losa import LoSA
from strategies.testing import TINY_PROTOCOL, tiny_detector, tiny_store, tiny_vit, train_tiny


@pytest.fixture
def opened(tmp_path):
    """A way to open the cache in one folder, and what it warned of."""
    warnings = []

    def open_disk(backbone, protocol=TINY_PROTOCOL, folder=tmp_path, **also):
        passes = passes_of(protocol)
        disk = DiskCache(folder, backbone, passes, warnings.append, worth=float("inf"), **also)
        open_disk.all.append(disk)
        return disk

    open_disk.all, open_disk.warnings, open_disk.folder = [], warnings, tmp_path
    return open_disk


def passes_of(protocol):
    return ClipPasses(protocol.frozen_clips, precision=protocol.precision)


def backbone_of(strategy=None, seed=0):
    return tiny_detector(strategy or HeadOnly(), seed=seed)[0].backbone.eval()


def files(folder):
    return sorted(folder.rglob("*.encoding"))


def encodings(backbone, disk):
    store = tiny_store(backbone)
    cache = EncodingCache(backbone, store, passes_of(TINY_PROTOCOL), storage=EncodingStorage(disk))
    return {name: video(cache, name) for name in store.videos}


def video(cache, name):
    """Return the encodings of all clips of a video."""
    whole = Window(name, 0, cache.store.clips[name].count)
    return tuple(part[0] for part in cache.batch([whole], torch.device("cpu")))


def equal(first, second):
    assert first.keys() == second.keys()
    for name, parts in first.items():
        assert len(parts) == len(second[name])
        for a, b in zip(parts, second[name], strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("strategy", [HeadOnly(), LoSA()], ids=lambda strategy: strategy.name)
def test_disk_memory_and_no_cache_give_the_same_bits(strategy, precision, opened):
    protocol = dataclasses.replace(TINY_PROTOCOL, precision=precision)
    runs = [
        train_tiny(strategy, dataclasses.replace(protocol, cache=False)),
        train_tiny(strategy, protocol),
        train_tiny(strategy, protocol, open_disk=opened),  # computes and writes
        train_tiny(strategy, protocol, open_disk=opened),  # reads
    ]
    assert opened.all[0].read_videos == 0
    # Measured steps compute what they use.
    assert 0 < opened.all[1].read_videos < 4
    states = [run.detector.state_dict() for run in runs]
    for run, state in zip(runs[1:], states[1:], strict=True):
        assert run.log.losses == runs[0].log.losses
        assert all(torch.equal(state[name], value) for name, value in states[0].items())
        kinds = [entry.step for entry in run.log.memory]
        assert kinds == ["uncached", "first cached", "cached"]
        assert run.log.memory[0].reading == runs[1].log.memory[0].reading
        assert [m.reading for m in run.log.memory] == [m.reading for m in runs[1].log.memory]
    assert opened.warnings == []


def test_detections_and_their_peak_are_those_without_a_cache(opened):
    detector, _ = tiny_detector(LoSA())
    store = tiny_store(detector.backbone)

    def found(protocol, disk):
        storage = EncodingStorage(disk)
        results, reading = detect_all(detector, store, protocol, torch.device("cpu"), storage=storage)
        return [(r.video, r.segments.tolist(), r.scores.tolist()) for r in results], reading

    expected = found(dataclasses.replace(TINY_PROTOCOL, cache=False), None)
    assert found(TINY_PROTOCOL, opened(detector.backbone)) == expected
    assert found(TINY_PROTOCOL, opened(detector.backbone)) == expected
    # The longest video is measured, and therefore computed.
    assert opened.all[1].read_videos == len(store.videos) - 1


def test_a_trained_upstream_is_neither_served_nor_kept(opened):
    train_tiny(LoFi(), open_disk=opened)
    assert files(opened.folder) == []
    backbone = backbone_of()
    disk = opened(backbone)
    before = encodings(backbone, disk)
    with torch.no_grad():
        next(backbone.parameters()).flatten()[0] += 1e-3
    assert disk.if_unchanged(backbone) is None
    after = encodings(backbone, disk)
    assert not torch.equal(after["video0"][0], before["video0"][0])
    assert opened(backbone).folder != disk.folder


def test_what_decides_the_values_decides_the_folder(opened):
    plain = backbone_of()
    folders = [
        opened(plain).folder,
        opened(backbone_of(seed=1)).folder,
        *(opened(backbone_of(s)).folder for s in (LoSA(), LoSA(taps=(1,)), LoSA(taps=(2,)), LoSA(grid=2))),
        opened(plain, dataclasses.replace(TINY_PROTOCOL, frozen_clips=3)).folder,
        opened(plain, dataclasses.replace(TINY_PROTOCOL, precision="bfloat16")).folder,
        opened(plain, annotations="other").folder,
    ]
    assert [n for n, count in collections.Counter(folders).items() if count > 1] == []
    # What does not: where the folder lies, and what only the steps after encoding use.
    elsewhere = opened(plain, dataclasses.replace(TINY_PROTOCOL, steps=99), opened.folder / "deeper")
    assert elsewhere.encoder == opened.all[0].encoder
    assert opened(backbone_of(LoSA(heads=2))).folder == folders[2]


def test_the_digest_of_a_state_sees_every_bit():
    first, second = (torch.nn.BatchNorm1d(2) for _ in range(2))
    assert state_digest(first) == state_digest(second)
    second.running_var[1] = torch.nextafter(second.running_var[1], torch.tensor(2.0))
    assert state_digest(first) != state_digest(second)


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "foreign", "folder"])
def test_a_spoilt_file_is_computed_again_and_told_once(harm, opened):
    backbone = backbone_of()
    expected = encodings(backbone, opened(backbone))
    path, other = files(opened.folder)[:2]
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[-5] ^= 1
    if harm == "folder":
        path.unlink()
        path.mkdir()
    else:
        changed = {"cut": content[:-7], "flip": content, "empty": b"", "foreign": other.read_bytes()}
        path.write_bytes(bytes(changed[harm]))
    equal(encodings(backbone, opened(backbone)), expected)
    assert len([line for line in opened.warnings if "computed again" in line]) == 1
    if harm != "folder":
        assert len(opened.warnings) == 1
        equal(encodings(backbone, opened(backbone)), expected)
        assert len(opened.warnings) == 1
        assert opened.all[-1].read_videos == 4


def test_a_full_disk_is_told_once_with_sizes(opened, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(2**40, 2**40, 2**20))
    backbone = backbone_of()
    expected = encodings(backbone, None)
    equal(encodings(backbone, opened(backbone)), expected)
    assert files(opened.folder) == []
    (line,) = opened.warnings
    assert "0 MiB are needed beside 1024, 1 are free" in line


def test_a_folder_that_cannot_be_written_is_told_once(opened):
    (opened.folder / "encodings").write_text("a file")
    backbone = backbone_of()
    equal(encodings(backbone, opened(backbone)), encodings(backbone, None))
    assert len([line for line in opened.warnings if "not kept on disk" in line]) == 1


def test_what_is_computed_faster_than_read_is_not_written(opened):
    backbone = backbone_of()
    disk = DiskCache(opened.folder, backbone, passes_of(TINY_PROTOCOL), opened.warnings.append, worth=1.0)
    encodings(backbone, disk)
    assert files(opened.folder) == []


def test_precision_holds_whatever_the_callers_autocast():
    detector = Detector(tiny_vit().eval(), torch.nn.Identity())
    protocol = dataclasses.replace(TINY_PROTOCOL, precision="bfloat16")
    cache = EncodingCache(detector.backbone, tiny_store(detector.backbone), passes_of(protocol), keep=False)
    plain = video(cache, "video0")
    with torch.autocast("cpu", torch.bfloat16):
        equal({"video0": video(cache, "video0")}, {"video0": plain})


def test_a_second_seed_reads_what_the_first_computed(tiny_dataset, tmp_path):
    options = ("--weights", "source", "--workers", "1", "--cache", str(tmp_path / "cache"))
    process = run_here(tiny_dataset, tmp_path / "one", *options, "--seeds", "0,1")
    assert process.returncode == 0, process.stderr
    process = run_here(tiny_dataset, tmp_path / "two", *options, "--seeds", "1", "--protocol", "cache=false")
    assert process.returncode == 0, process.stderr
    first, again = (
        {record["seed"]: record for record in read_folder(tmp_path / name / "records").records}
        for name in ("one", "two")
    )
    # Measured steps, and inference on the longest video, compute what they use.
    assert first[0]["cost"]["encoded_videos_read"] == 0
    assert 0 < first[1]["cost"]["encoded_videos_read"] < 6
    assert again[1]["cost"]["encoded_videos_read"] == 0
    for part in ("metrics", "training"):
        assert first[1][part] == again[1][part]
    # Where nothing is cached, all steps are uncached; seeds with and without files on disk report the same.
    kinds = {seed: {stage["step"] for stage in first[seed]["memory"]["stages"]} for seed in first}
    assert all({"uncached", "first cached"} <= found for found in kinds.values())
    assert {stage["step"] for stage in again[1]["memory"]["stages"]} == {"uncached"}
    assert first[1]["memory"]["inference"] == again[1]["memory"]["inference"]
    assert str(tmp_path) not in json.dumps(first[1])


def test_where_the_cache_lies_is_no_part_of_a_run(tiny_dataset):
    dataset = read_annotations(tiny_dataset / "annotations.json", root=tiny_dataset / "videos")
    fields = {"model": "vit-t", "strategy": "head-only", "strategy_settings": {}, "weights": "random"}
    fields |= {"dataset": "unused", "data": None, "seed": 0, "device": "cpu", "results": "unused"}
    ids = {
        resolve_run(RunSpecification(**fields, cache=cache, protocol_changes={}), dataset).id
        for cache in (None, "here", "/there")
    }
    assert len(ids) == 1
