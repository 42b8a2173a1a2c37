"""What is measured on a card: its workspaces, its rows, and their files."""

import json
from types import SimpleNamespace

import pytest
import torch

from bench.io.errors import InputError
from bench.measure.__main__ import main, parser
from bench.measure.rows import Job, line, prepare, row_path, waiting_measurements, write_measured, write_row
from bench.plan.grid import forecast_requests
from bench.plan.request import ForecastRequest

OPTIONS = ("--model", "vit-t", "--strategy", "head-only", "--backward", "plain")


@pytest.fixture
def card(monkeypatch):
    """A simulated CUDA device; its compute capability can be set."""
    found = SimpleNamespace(capability=(9, 0))
    for name, value in (
        ("is_available", lambda: True),
        ("get_device_capability", lambda device=None: found.capability),
        ("get_device_name", lambda device=None: "a card"),
        ("get_device_properties", lambda device: SimpleNamespace(total_memory=80 << 30)),
        ("get_allocator_backend", lambda: "native"),
    ):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    return found


@pytest.mark.parametrize(("capability", "size"), [((8, 0), 8320 << 10), ((9, 0), 32 << 20)])
def test_the_forecast_has_the_workspaces_of_the_card_as_in_a_run(card, tmp_path, capability, size):
    card.capability = capability
    options = parser().parse_args([*OPTIONS, "--force", "--results", str(tmp_path)])
    [job] = prepare(options, forecast_requests).jobs
    assert job.question.workspace_bytes == size
    assert job.path == row_path(tmp_path, job.question, "a card")


def test_rows_of_different_workspaces_have_one_name(tmp_path):
    asked = [ForecastRequest("vit-t", "losa", {}, {}, "cuda", size) for size in (None, 8320 << 10)]
    assert len({row_path(tmp_path, each, "a card") for each in asked}) == 1


def test_a_card_that_others_use_is_refused_without_force(card, monkeypatch, tmp_path):
    monkeypatch.setattr("bench.memory.device.used_bytes", lambda device: 3 << 30)
    options = parser().parse_args([*OPTIONS, "--results", str(tmp_path)])
    with pytest.raises(InputError, match="in use by other processes"):
        prepare(options, forecast_requests)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--suite", "--parts", "rows,x"), "--parts: unknown 'x', known are probes, rows"),
        (("--suite", "--seconds", "0"), "--seconds: got 0, allowed is more than 0"),
        (("--suite", "--data", "there"), "--data: the footage needs --weights"),
        (("--builders", "0"), "--builders: got 0"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(words, said, capsys):
    assert main(words) == 2
    [text] = capsys.readouterr().err.splitlines()
    assert said in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_does_not_exist_is_one_line_and_exit_2(tmp_path, capsys):
    assert main([*OPTIONS, "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == "bench.measure: --device: got 'cuda', this machine has none; allowed here is cpu\n"


def test_missing_packages_are_one_line_and_exit_2(monkeypatch, capsys):
    monkeypatch.setattr("bench.measure.__main__.PACKAGES", ("torch", "not_installed", "nor_this"))
    assert main(["--suite"]) == 2
    said = capsys.readouterr().err
    assert said == "bench.measure: packages are missing: not_installed, nor_this (docs/gpu.md)\n"


FORECAST = {
    **{"model": "vit-t", "strategy": "losa", "settings": {}, "backward": "plain", "precision": "float32"},
    **{"frames": 64, "clips": 4, "image_size": 32, "batch_size": 1, "device": "cpu"},
    **{"predicted_peak_bytes": 11 * 10**8, "kinds": {}, "phases": {}},
}
MEASURED = {
    **{"status": "ok", "message": None, "environment": {"device": "a card"}},
    "measured": {"peak_allocated_bytes": 10**9, "seconds_per_step": 0.25},
}


def test_a_measurement_is_kept_until_it_has_its_forecast(tmp_path):
    question = ForecastRequest("vit-t", "losa", {}, {}, "cpu")
    job = Job(question, row_path(tmp_path, question, "a card"), 0.0, 0)
    write_measured(job, MEASURED)
    assert waiting_measurements(tmp_path) == [(job.path, question, MEASURED)]
    assert not job.path.exists()
    row = write_row(job.path, FORECAST, MEASURED)
    assert json.loads(job.path.read_text()) == row == {**FORECAST, **MEASURED}
    assert waiting_measurements(tmp_path) == []
    assert (
        line(row)
        == "vit-t losa plain 64 x 32: predicted 1.100 GB, measured 1.000 (+10.00 %), 0.250 s per step"
    )


def test_a_measurement_of_other_contents_is_refused(tmp_path):
    folder = tmp_path / "memory" / "without_forecast"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text('{"request": {"model": "vit-t", "surprise": 1}, "measured": {}}')
    with pytest.raises(InputError, match=r"a\.json: fields 'request' and 'measured' are expected"):
        waiting_measurements(tmp_path)
