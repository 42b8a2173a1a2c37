"""Forecasts for a GPU: a replica of public logs, published sizes, what the lean options are worth."""

import pytest

from bench.plan.pool import forecast_pool, run_forecasts
from bench.plan.request import ForecastRequest
from tests.reference.adatad import forecast_mebibytes

pytestmark = pytest.mark.slow
STREAMED = {"backward": "streamed"}
LONG = {**STREAMED, "window_clips": "192"}


@pytest.fixture(scope="module")
def pool():
    with forecast_pool(2) as processes:
        yield processes


@pytest.mark.parametrize(("model", "image_size", "logged"), [("vit-b", 160, 4993), ("vit-g", 154, 30703)])
def test_a_replica_that_was_fitted_to_public_logs_stays_where_it_was(pool, model, image_size, logged):
    """``mem=`` of OpenTAD's logs, 768 frames of 160 pixels; patches of 14 leave 154 of them.

    This notices a change of the forecast. It says nothing of the forecast's accuracy: what the replica trains
    and holds was chosen so that these two numbers come out (``tests/reference/adatad.py``), before the
    forecast counted blocks that the allocator does not split, which add 0.3 %.
    """
    predicted = pool.submit(forecast_mebibytes, model, image_size).result()
    print(f"{model}: predicted {predicted:.0f} MiB, logged {logged}")
    assert abs(predicted / logged - 1) < 0.012


def test_published_sizes_fit_a_24_gb_card(pool):
    """ViT-g, 768 frames of 224 pixels in bfloat16, in GB of 10^9 bytes."""
    bars = (
        ("full-finetune", {"backward": "plain"}, {}, 220, 230),
        ("full-finetune", {"backward": "checkpointed"}, {}, 16.65, 43),
        ("full-finetune", STREAMED, {}, 16.65, 18),
        ("full-finetune", LONG, {}, 16.65, 18),
        ("lofi", STREAMED, {"variant": "s"}, 16.65, 18),
        ("losa", STREAMED, {}, 2, 6),
        ("head-only", {}, {}, 2, 4),
    )
    questions = [ForecastRequest("vit-g", name, settings, changes) for name, changes, settings, _, _ in bars]
    rows = run_forecasts(questions, pool)
    for row, (name, changes, _, least, most) in zip(rows, bars, strict=True):
        size = row["predicted_peak_bytes"] / 1e9
        print(f"{name} {changes}: {size:.2f} GB in {row['trace_seconds']:.0f} s")
        assert least < size <= most, name
        assert row["predicted_reserved_bytes"] >= row["predicted_peak_bytes"]
        assert sum(row["kinds"].values()) == row["predicted_peak_bytes"]
    peaks = [row["predicted_peak_bytes"] for row in rows]
    assert abs(peaks[3] / peaks[2] - 1) < 0.1  # four times the frames


def test_every_lean_option_saves_what_it_says(pool):
    """ViT-b, where each option shows: bytes saved against the same row with the option off."""
    off = {
        "fused_optimizer": ("full-finetune", STREAMED, "optimizer"),
        "low_precision_frozen": ("head-only", {}, None),
        "average_on_host": ("full-finetune", STREAMED, None),
        "move_per_pass": ("head-only", {}, None),
    }
    questions = [
        ForecastRequest("vit-b", strategy, {}, {**changes, f"lean.{name}": value})
        for name, (strategy, changes, _) in off.items()
        for value in ("true", "false")
    ]
    rows = run_forecasts(questions, pool)
    parameters = 86e6 * 4
    clips = 48 * 16 * 3 * 224 * 224
    least = {
        "fused_optimizer": 0.9 * parameters,
        "low_precision_frozen": 0.45 * parameters,
        "average_on_host": 0.9 * parameters,
        "move_per_pass": 0.9 * clips,
    }
    for (name, (_, _, phase)), lean, fat in zip(off.items(), rows[::2], rows[1::2], strict=True):
        with_it, without = (
            row["phases"][phase] if phase else row["predicted_peak_bytes"] for row in (lean, fat)
        )
        print(f"{name}: {(without - with_it) / 1e6:.0f} MB")
        assert without - with_it >= least[name], name


def test_released_gradients_save_the_gradients(pool):
    unclipped = {"backward": "checkpointed", "gradient_clip": "1e30"}
    questions = [
        ForecastRequest("vit-b", "full-finetune", {}, {**unclipped, "lean.release_gradients": value})
        for value in ("true", "false")
    ]
    released, kept = run_forecasts(questions, pool)
    assert kept["phases"]["optimizer"] - released["phases"]["optimizer"] >= 0.9 * 86e6 * 4


def test_a_question_that_cannot_be_answered_raises(pool):
    from bench.io.errors import InputError

    with pytest.raises(InputError, match="unknown 'nothing'"):
        run_forecasts([ForecastRequest("vit-t", "nothing", {}, {})], pool)
