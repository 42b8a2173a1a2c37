"""The rows measured on an H100, and what the pages say of them."""

import json
from pathlib import Path

import pytest

from bench.io.reading import MAX_RECORD_BYTES, read_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
ROWS = {
    path.name: row
    for path in sorted((RESULTS / "memory").glob("*.json"))
    if "H100" in (row := read_json(path, MAX_RECORD_BYTES))["environment"]["device"]
}
FIRST = json.loads((RESULTS / "h100_first_forecasts.json").read_text())
PAGE = " ".join((ROOT / "docs" / "gpu.md").read_text().split())


def errors(predicted):
    """Return the error in percent of each measured row's prediction."""
    return {
        name: 100 * (predicted[name] / row["measured"]["peak_allocated_bytes"] - 1)
        for name, row in ROWS.items()
        if row["measured"] is not None
    }


def test_the_first_forecasts_and_those_of_now():
    assert ROWS.keys() == FIRST.keys()
    assert len(ROWS) == 20
    first = errors({name: entry["predicted_peak_bytes"] for name, entry in FIRST.items()})
    assert f"off by {min(first.values()):.1f} to {max(first.values()):+.1f} %" in PAGE
    now = errors({name: row["predicted_peak_bytes"] for name, row in ROWS.items()})
    [(worst, error)] = [(name, error) for name, error in now.items() if abs(error) > 0.6]
    assert ROWS[worst]["strategy"] == "mlp-control"
    assert f"`mlp-control`, {-error:.1f} % too low" in PAGE
    text = (ROOT / "docs" / "memory.md").read_text()
    assert f"{len(now)} measured steps" in text
    assert f"{min(now.values()):.1f} to {max(now.values()):+.1f} %, all but one within 0.6 %" in text


def test_measured_peaks_are_those_that_were_first_written():
    for name, row in ROWS.items():
        peak = row["measured"] and row["measured"]["peak_allocated_bytes"]
        assert peak == FIRST[name]["measured_peak_bytes"], name


def test_the_rows_out_of_memory_are_those_forecast_beyond_the_card():
    failed = {name for name, row in ROWS.items() if row["status"] == "out-of-memory"}
    assert failed == {name for name, row in ROWS.items() if row["predicted_reserved_bytes"] > 80e9}
    assert len(failed) == 2


def row(strategy, model, backward):
    [found] = [
        each["measured"]
        for each in ROWS.values()
        if (each["strategy"], each["model"], each["backward"]) == (strategy, model, backward)
    ]
    return found


def test_figures_of_the_page():
    streamed, checkpointed = (row("full-finetune", "vit-g", mode) for mode in ("streamed", "checkpointed"))
    seconds = streamed["seconds_per_step"], checkpointed["seconds_per_step"]
    assert f"takes {seconds[0] / seconds[1]:.1f} times as long" in PAGE
    assert f"full fine-tuning: {seconds[0]:.1f} and {seconds[1]:.1f} s" in PAGE
    share = streamed["peak_allocated_bytes"] / checkpointed["peak_allocated_bytes"]
    assert f"{100 * share:.0f} % of its memory" in PAGE
    sizes = [
        row("adatad", model, "checkpointed")["peak_allocated_bytes"] / 1e9 for model in ("vit-b", "vit-g")
    ]
    assert f"takes {sizes[0]:.1f} GB (ViT-B) and {sizes[1]:.1f} GB (ViT-g)" in PAGE


def test_figures_of_the_probes():
    probes = json.loads((RESULTS / "probes_h100.json").read_text())["probes"]
    assert {entry["status"] for entry in probes.values()} == {"ok"}
    difference = probes["streamed_gradient"]["values"]["relative_difference"]
    assert f"equals a plain one to {difference:.1e}".replace("e-0", "e-") in PAGE
    assert probes["one_process_sharded"]["values"]["largest_difference"] == pytest.approx(0, abs=1e-9)
    bfloat16 = [v for k, v in probes["attention"]["values"].items() if k.endswith("bfloat16")]
    assert all(any("cudnn_attention" in kernel for kernel in each["kernels"]) for each in bfloat16)
