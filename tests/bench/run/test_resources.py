"""The host memory that a job requests."""

import dataclasses
from types import SimpleNamespace

import pytest

from bench.config.presets import FEATURES, MINIATURE
from bench.memory.constants import GIBIBYTE
from bench.run.cluster import resources
from bench.run.specification import RunSpecification
from bench.run.worker import caches
from bench.training.distributed.processes import World


@pytest.mark.parametrize(
    ("caches", "gib"),
    [((None, None), 8), ((0, None), 16 / 3), ((None, 3), (4 + 3) / 0.75), ((2, 3), 4 + 2 + 3)],
)
def test_host_memory_counts_frames_and_encodings(caches, gib, monkeypatch):
    """Without a limit, each cache takes a quarter of the memory that the job has."""
    monkeypatch.setattr(resources, "PROCESS_BYTES", 2 * GIBIBYTE)
    monkeypatch.setattr(resources, "WINDOWS_HELD", 0)
    frames, encodings = caches
    spec = SimpleNamespace(
        model="vit-t", device="cpu", processes=1, frame_cache=frames, encoding_cache=encodings
    )
    protocol = dataclasses.replace(MINIATURE, batch_size=1)
    row = {"predicted_peak_bytes": GIBIBYTE, "inference": {"predicted_peak_bytes": 2 * GIBIBYTE}}
    run = SimpleNamespace(spec=spec, protocol=protocol, weights=None)
    assert resources.host_bytes(run, row, 0) == pytest.approx(gib * GIBIBYTE)


def test_runs_in_parallel_share_the_free_memory(monkeypatch):
    """Four runs of two processes each took four times the quarter, twice: for frames and for encodings."""
    monkeypatch.setattr(caches, "default_cache_bytes", lambda: 8000)
    world = World(0, 2, has_peers=False)
    spec = RunSpecification(*("vit-t", "head-only", {}, "x", None, None, None, 0, "cpu", {}, "r"))
    assert caches.cache_bytes(spec, None, world) == 4000
    four = dataclasses.replace(spec, runs_in_parallel=4)
    assert caches.cache_bytes(four, None, world) == 1000
    assert caches.cache_bytes(four, 1, world) == GIBIBYTE // 2


def test_a_window_of_features_takes_their_bytes():
    run = SimpleNamespace(spec=SimpleNamespace(model="features"), protocol=FEATURES)
    assert resources._clip_bytes(run) == 2048 * 4
    run = SimpleNamespace(spec=SimpleNamespace(model="vit-t"), protocol=MINIATURE)
    assert resources._clip_bytes(run) == 3 * 16 * 32 * 32
