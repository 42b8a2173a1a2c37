"""The host memory that a job requests."""

from types import SimpleNamespace

import pytest

from bench.memory.constants import GIBIBYTE
from bench.run.cluster import resources


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
    protocol = SimpleNamespace(window_clips=1, image_size=1, batch_size=1)
    row = {"predicted_peak_bytes": GIBIBYTE, "inference": {"predicted_peak_bytes": 2 * GIBIBYTE}}
    run = SimpleNamespace(spec=spec, protocol=protocol, weights=None)
    assert resources.host_bytes(run, row, 0) == pytest.approx(gib * GIBIBYTE)
