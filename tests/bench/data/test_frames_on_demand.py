"""Frames on demand: the same bits as whole videos decoded at once, from a bounded amount of memory."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, ROOT, bench_command

from bench.data import clips as clips_module
from bench.data import frame_store
from bench.data.clips import FileClips, parts
from bench.data.frame_loader import FrameLoader
from bench.data.frame_store import open_store, pictures_sha256
from bench.data.windows import TrainingSampler, Window
from bench.features.cache import EncodingCache, batch_clips
from bench.features.encode import ClipPasses, encode_frozen
from bench.io.errors import InputError, StuckDecoderError
from bench.run.__main__ import main
from bench.speed.windows import long_video
from bench.training.loop import train
from bench.training.step import Trainer
from datasets.annotations.reader import read_annotations, video_path
from datasets.sampling import frame_times
from datasets.video import decord_reader, reading_now
from datasets.video.frames import read_frames, reader_of
from datasets.video.index import inspect
from strategies.full_finetune import FullFinetune
from strategies.head_only import HeadOnly
from strategies.testing import TINY_PROTOCOL, tiny_detector, tiny_vit

GEOMETRY = tiny_vit().geometry
CLIP_BYTES = 3 * GEOMETRY.clip_frames * TINY_PROTOCOL.image_size**2
COUNT = 13  # clips of 8 frames in ten seconds at 10 frames a second


@pytest.fixture
def dataset(tiny_dataset):
    return read_annotations(tiny_dataset / "annotations.json", root=tiny_dataset / "videos")


@contextlib.contextmanager
def opened(dataset, cached_clips, workers=1, protocol=TINY_PROTOCOL):
    """The training videos under a cache of so many clips."""
    with contextlib.closing(FrameLoader(cached_clips * CLIP_BYTES, workers)) as loader:
        yield open_store(dataset, "training", protocol, GEOMETRY, loader), loader


def whole_video(dataset, video):
    """All clips as one read of the file gives them."""
    times = frame_times(video.duration, TINY_PROTOCOL.frames_per_second, GEOMETRY.clip_frames).times
    pixels = torch.from_numpy(read_frames(video_path(dataset, video), times, TINY_PROTOCOL.image_size))
    frames = pixels.permute(0, 3, 1, 2)
    return frames.unflatten(0, (-1, GEOMETRY.clip_frames)).transpose(1, 2).contiguous()


@pytest.mark.parametrize(("cached", "workers"), [(0, 1), (0, 3), (5, 2), (30, 1), (1000, 1)])
def test_windows_are_those_of_whole_videos_whatever_is_cached(cached, workers, dataset):
    whole = {video.id: whole_video(dataset, video) for video in dataset.subset("training")}
    with opened(dataset, cached, workers) as (store, loader):
        assert store.ahead == (0 if cached == 1000 else workers)
        sampler = TrainingSampler(store, TINY_PROTOCOL, CLASSES, seed=1)
        for step in range(8):
            windows = sampler.windows(step)
            store.expect(sampler.ahead(step))
            expected = [whole[w.video][torch.from_numpy(w.indices(COUNT))] for w in windows]
            found = batch_clips(store, windows)
            assert found.dtype == torch.uint8
            assert torch.equal(found, torch.stack(expected))
            assert sum(clip.nbytes for clip in loader._kept.values()) == loader._kept_bytes
            assert loader._kept_bytes <= cached * CLIP_BYTES
            assert len(loader._ahead) <= 2 * workers + 2


def test_what_was_announced_is_decoded_once_and_what_is_kept_not_again(dataset, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        FileClips,
        "decode",
        lambda self, first, last, plain=FileClips.decode: (
            decoded.append((first, last)) or plain(self, first, last)
        ),
    )
    with opened(dataset, 5) as (store, loader):
        clips = store.clips["clip_0"]
        store.expect([("clip_0", 0, 4), ("clip_0", 4, 8)])
        store.expect([("clip_0", 4, 8), ("clip_0", 1, 3)])
        assert list(loader._ahead) == [(clips, 4, 8), (clips, 1, 3)]
        clips.part(4, 8)
        assert loader._ahead[clips, 1, 3].result().keys() == {1, 2}
        assert (4, 8) in decoded
        assert decoded.count((4, 8)) == decoded.count((1, 3)) == 1
        clips.part(5, 7)  # kept
        clips.part(3, 6)  # 4 and 5 are kept
        assert decoded[-1] == (3, 4)
        clips.part(9, 13)  # five clips are kept: 9 to 12 and the last that was asked for
        assert [number for _, number in loader._kept] == [3, 9, 10, 11, 12]


@pytest.mark.parametrize(("cached", "workers"), [(0, 1), (0, 3), (5, 2), (1000, 1)])
def test_the_digest_of_pictures_is_that_of_whole_videos_whatever_is_cached(cached, workers, dataset):
    expected = hashlib.sha256()
    for video in sorted(dataset.subset("training"), key=lambda video: video.id):
        expected.update(video.id.encode())
        expected.update(whole_video(dataset, video)[[2, 6, 10]].numpy().tobytes())
    seen = []
    with opened(dataset, cached, workers) as (store, _):
        assert pictures_sha256(store, lambda *done: seen.append(done)) == expected.hexdigest()
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_digest_of_pictures_takes_some_of_many_videos_and_sees_one_byte(dataset, monkeypatch):
    monkeypatch.setattr(frame_store, "DIGEST_VIDEOS", 2)
    with opened(dataset, 1000) as (store, loader):
        names = sorted(store.clips)
        kept = loader._kept
        before = pictures_sha256(store)
        kept[store.clips[names[1]], 6][0, 0, 0, 0] ^= 1
        assert pictures_sha256(store) == before
        kept[store.clips[names[2]], 6][0, 0, 0, 0] ^= 1
        assert pictures_sha256(store) != before


@pytest.mark.parametrize("strategy", [FullFinetune(), HeadOnly()], ids=lambda strategy: strategy.name)
def test_training_on_demand_is_training_from_memory_bitwise(strategy, dataset, monkeypatch):
    monkeypatch.setattr(clips_module, "PART_BYTES", 4 * CLIP_BYTES)
    protocol = dataclasses.replace(TINY_PROTOCOL, steps=6)
    found = []
    for cached in (1000, 6):
        detector, fresh_head = tiny_detector(strategy, protocol)
        with opened(dataset, cached, 2, protocol) as (store, _):
            sampler = TrainingSampler(store, protocol, (*CLASSES, "third"), 0)
            trainer = Trainer(detector, protocol, sampler, torch.device("cpu"))
            log = train(trainer, strategy.stages(), fresh_head)
        found.append((log.losses, [entry.reading for entry in log.memory], detector.state_dict()))
    assert found[0][:2] == found[1][:2]
    assert all(torch.equal(value, found[1][2][name]) for name, value in found[0][2].items())


@pytest.mark.parametrize("clips_at_once", [1, 3, 8, 100])
def test_a_video_is_encoded_in_parts_by_the_same_passes(clips_at_once, dataset, monkeypatch):
    monkeypatch.setattr(clips_module, "PART_BYTES", clips_at_once * CLIP_BYTES)
    backbone, passes = tiny_vit().eval(), ClipPasses(3)
    with opened(dataset, 0) as (store, _):
        clips = store.clips["clip_1"]
        borders = list(parts(clips))
        assert [0, *(last for _, last in borders)] == [*(first for first, _ in borders), COUNT]
        assert max(last - first for first, last in borders) <= clips_at_once
        cache = EncodingCache(backbone, store, passes)
        (found,) = cache.batch([Window("clip_1", 0, COUNT)], torch.device("cpu"))
        (expected,) = encode_frozen(backbone, torch.from_numpy(clips.part(0, COUNT)), passes)
        assert torch.equal(found[0], expected)


def test_the_grid_and_the_digest_need_no_decoding(dataset, monkeypatch):
    with opened(dataset, 1000) as (store, _):
        before = {name: (each.count, each.valid_steps, each.source) for name, each in store.clips.items()}
    assert before["clip_0"][:2] == (COUNT, 50)
    assert len({source for *_, source in before.values()}) == 4
    monkeypatch.setattr(FileClips, "decode", None)
    with opened(dataset, 0) as (store, _):
        assert before == {n: (e.count, e.valid_steps, e.source) for n, e in store.clips.items()}


@pytest.mark.skipif(not decord_reader.decord_installed(), reason="there is no decord for this machine")
@pytest.mark.parametrize("how", ["alarm", "sleep"])
def test_a_hanging_decoder_is_killed_in_every_worker_and_named(how, dataset, tmp_path, monkeypatch):
    for video in dataset.videos:
        assert reader_of(video_path(dataset, video)).startswith("decord")  # checked while it still answers
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, os, signal, sys, time\nfor line in sys.stdin:\n"
        + (
            "    signal.setitimer(signal.ITIMER_REAL, json.loads(line)['seconds'])\n    while True: pass\n"
            if how == "alarm"
            else "    time.sleep(600)\n"
        )
    )
    monkeypatch.setattr(decord_reader, "WORKER", (sys.executable, str(script)))
    monkeypatch.setattr(decord_reader, "START_SECONDS", 10.0 if how == "alarm" else 0.0)
    monkeypatch.setattr(decord_reader, "SECONDS", 0.3)
    monkeypatch.setattr(decord_reader, "SECONDS_PER_FRAME", 0.001)
    monkeypatch.setattr(decord_reader, "GRACE_SECONDS", 1.0)
    with opened(dataset, 0, 2) as (store, _):
        store.expect([("clip_0", 0, 2), ("clip_1", 4, 6)])
        for name, first in (("clip_0", 0), ("clip_1", 4)):
            with pytest.raises(StuckDecoderError, match=rf"{name}\.mp4: decord gave no answer") as caught:
                store.clips[name].part(first, first + 2)
            [facts] = caught.value.facts["decoding"]
            assert facts["video"].endswith(f"{name}.mp4")
            clip_frames = GEOMETRY.clip_frames
            needed = store.clips[name].times[first * clip_frames : (first + 2) * clip_frames]
            index = inspect(Path(facts["video"]))
            assert (facts["first_frame"], facts["last_frame"]) == tuple(index.frame_indices(needed)[[0, -1]])
            assert 0.3 <= facts["seconds"] < 20
            assert "\n" not in str(caught.value)
            assert f"frames {facts['first_frame']} to {facts['last_frame']}" in str(caught.value)
    assert not decord_reader._workers
    assert not reading_now()


@pytest.mark.skipif(not decord_reader.decord_installed(), reason="there is no decord for this machine")
def test_a_stopped_decoder_is_killed_and_the_next_file_gets_another(dataset, monkeypatch):
    monkeypatch.setattr(decord_reader, "SECONDS", 0.5)
    monkeypatch.setattr(decord_reader, "SECONDS_PER_FRAME", 0.0)
    monkeypatch.setattr(decord_reader, "GRACE_SECONDS", 0.5)
    first, second = (video_path(dataset, video) for video in dataset.videos[:2])
    expected = read_frames(first, [0.5, 1.5])
    [worker] = [w for (_, thread), w in decord_reader._workers.items() if thread == threading.get_ident()]
    os.kill(worker.lines.process.pid, signal.SIGSTOP)  # its alarm cannot end it now
    with pytest.raises(StuckDecoderError, match=re.escape(str(second))):
        read_frames(second, [0.5, 1.5])
    assert worker.lines.process.poll() == -signal.SIGKILL
    monkeypatch.setattr(decord_reader, "SECONDS", 20.0)
    assert (read_frames(first, [0.5, 1.5]) == expected).all()
    decord_reader.stop_worker()


def test_a_file_that_cannot_be_decoded_is_named(dataset, tmp_path):
    for video in dataset.videos:
        content = bytearray(video_path(dataset, video).read_bytes())
        if video.id == "clip_2":
            content[len(content) // 4 : 3 * len(content) // 4] = bytes(len(content) // 2)
        (tmp_path / f"{video.id}.mp4").write_bytes(content)
    damaged = dataclasses.replace(dataset, root=tmp_path)
    with opened(damaged, 0, 2) as (store, _):
        store.expect([("clip_1", 0, 4), ("clip_2", 0, COUNT)])
        store.clips["clip_1"].part(0, 4)
        with pytest.raises(InputError, match=r"clip_2\.mp4") as caught:
            batch_clips(store, [Window("clip_2", 0, COUNT)])
        assert "\n" not in str(caught.value)


MEASURE = """
import json, sys
import torch
from bench.data.clips import FileClips
from bench.data.frame_store import FrameStore
from bench.data.time_grid import time_grid
from bench.features.cache import EncodingCache, batch_clips
from bench.data.frame_loader import FrameLoader
from bench.models.backbone import BackboneGeometry
from bench.data.windows import Window
from datasets.sampling import frame_times

def peak():
    # Not getrusage's, which begins with that of the process that started this one.
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024

path, workers, cache, windows = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
loader = FrameLoader(cache << 20, workers)
grid = frame_times(180, 30, 16)
clips = FileClips(path, grid.times, 16, 224, 1, None, loader)
store = FrameStore({}, {"video": clips}, workers)
starts = [(97 * number) % (clips.count - 48) for number in range(windows + workers)]
clips.part(0, 1)
before = peak()
for number in range(windows):
    store.expect([("video", start, start + 48) for start in starts[number : number + 1 + workers]])
    assert batch_clips(store, [Window("video", starts[number], 48)]).shape == (1, 48, 3, 16, 224, 224)
print(json.dumps([before, peak(), clips.count * clips.clip_bytes / 2**20]))
loader.close()
"""


@pytest.fixture(scope="module")
def three_minutes(made_once):
    return made_once("three-minutes", lambda folder: long_video(folder / "long.mp4", 180)) / "long.mp4"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a peak")
@pytest.mark.parametrize(("workers", "cache"), [(1, 0), (2, 200)])
def test_long_windows_need_memory_for_windows_and_not_for_videos(workers, cache, three_minutes):
    command = [sys.executable, "-c", MEASURE, str(three_minutes), str(workers), str(cache), "3"]
    process = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.returncode == 0, process.stderr
    before, peak, video = json.loads(process.stdout)
    window = 768 * 3 * 224**2 / 2**20
    assert video > 7 * window
    # The step's own three copies (decoded, picked, stacked), those announced, and one for small things.
    assert peak - before < cache + (3 + workers + 1) * window


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--frame-cache", "-1"), r"--frame-cache: got -1, allowed is 0 to 1000000 \(GiB\)"),
        (("--frame-cache", "nan"), "--frame-cache: got nan"),
        (("--decoders", "0"), "--decoders: got 0, allowed is 1 to 256"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(options, words, tiny_dataset, tmp_path, capsys):
    code = main(bench_command(tiny_dataset, tmp_path, *options)[3:])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert re.search(words, error)
    assert "\n" not in error
