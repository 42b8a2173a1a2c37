import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.sampling import frame_times, windows


def test_the_grid_holds_the_middles_of_the_frames() -> None:
    grid = frame_times(0.5, 10.0)
    np.testing.assert_allclose(grid.times, [0.05, 0.15, 0.25, 0.35, 0.45])
    assert grid.valid.all()


def test_padding_repeats_the_last_instant_and_is_masked() -> None:
    grid = frame_times(0.5, 10.0, count_multiple=4)
    np.testing.assert_allclose(grid.times[4:], [0.45] * 4)
    assert grid.valid.tolist() == [True] * 5 + [False] * 3


def test_floating_point_adds_no_frame() -> None:
    assert len(frame_times(0.1 * 3, 10.0).times) == 3
    assert len(frame_times(35.7, 10.0).times) == 357


def test_a_video_of_less_than_a_frame_is_read_at_its_middle() -> None:
    np.testing.assert_allclose(frame_times(0.02, 10.0).times, [0.01])


@given(st.floats(0.001, 500), st.floats(0.5, 60), st.integers(1, 32))
def test_every_instant_lies_within_the_video(duration: float, rate: float, multiple: int) -> None:
    grid = frame_times(duration, rate, multiple)
    assert len(grid.times) % multiple == 0
    assert len(grid.times) - grid.valid.sum() < multiple
    assert grid.times.min() > 0
    assert grid.times.max() <= duration
    assert duration - grid.times.max() <= 1 / rate + 1e-6


@pytest.mark.parametrize(
    ("duration", "rate", "multiple"), [(0, 10, 1), (float("nan"), 10, 1), (1, 0, 1), (1, 10, 0)]
)
def test_a_wrong_grid_is_refused(duration: float, rate: float, multiple: int) -> None:
    with pytest.raises(ValueError, match="is needed"):
        frame_times(duration, rate, multiple)


def test_the_last_window_ends_with_the_video() -> None:
    assert windows(10, 4, 3) == [0, 3, 6]
    assert windows(11, 4, 3) == [0, 3, 6, 7]


def test_a_short_video_has_one_window() -> None:
    assert windows(3, 8, 4) == [0]
    assert windows(8, 8, 4) == [0]


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 40))
def test_windows_cover_every_clip(total: int, window: int, stride: int) -> None:
    if stride > window:
        with pytest.raises(ValueError, match="stride_clips"):
            windows(total, window, stride)
        return
    starts = windows(total, window, stride)
    assert starts == sorted(set(starts))
    assert {clip for start in starts for clip in range(start, start + window)} >= set(range(total))
    assert starts[-1] == max(0, total - window)


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="total_clips is 0"):
        windows(0, 4, 2)
