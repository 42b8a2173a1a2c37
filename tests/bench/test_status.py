"""What ``bench.status`` tells of runs that wait, go on, were killed, failed, or are done."""

import dataclasses
import json
import math
import time
from pathlib import Path

import pytest
from made_records import record as made_record

from bench.memory.constants import CARDS, GIBIBYTE
from bench.records.locks import locked
from bench.records.progress import Progress, Waiting, settings_text, write_progress, write_queue
from bench.records.record import write_record
from bench.run.cluster.queue import Job, write_job
from bench.run.cluster.resources import measured_minutes, smallest_card
from bench.run.cluster.slurm_options import SlurmOptions, parse_slurm_options
from bench.run.options import parser, specifications
from bench.run.specification import resolve_run
from bench.status import duration, main, rows
from datasets.annotations.dataset import Dataset
from strategies.base import settings

PROTOCOL, OTHER = "d" * 64, "e" * 64


def record_of(identifier, status="ok", **fields):
    made = made_record("losa", int(identifier.partition("_seed")[2].partition("_")[0]), status=status)
    cost = {**made["cost"], "wall_seconds": 600.0} if made["cost"] else None
    return {**made, "id": identifier, "cost": cost, **fields}


def progress_of(run, **fields):
    now = time.time()
    values = {
        "run": run,
        "model": "vit-t",
        "strategy": "losa",
        "seed": int(run.partition("_seed")[2].partition("_")[0]),
        "settings": settings_text({"name": "losa", "lr": 1.0}),
        "protocol": PROTOCOL,
        "phase": "adapters",
        "done": 30,
        "total": 90,
        "started": now - 200,
        "phase_started": now - 110,
        "phase_first": 10,
        "updated": now - 10,
    }
    return Progress(**{**values, **fields})


def name(seed):
    return f"d_vit-t_losa_seed{seed}_{seed:08}"


def test_every_state_is_told_apart(tmp_path, capsys):
    records = tmp_path / "records"
    write_record(records, record_of(name(0), "error", phase="load", message="broken adapter"))
    write_record(records, record_of(name(1), "error", failure={"signal": "SIGKILL"}))
    write_progress(tmp_path, progress_of(name(2)))
    write_progress(tmp_path, progress_of(name(3), phase="load"))  # whoever wrote it holds no lock
    write_queue(tmp_path, [Waiting(name(4), "vit-t", "losa", 4)])
    write_job(tmp_path, Job(name(5), "vit-t", "losa", 5, "local", "999999999", "here", 0.0))
    with locked(tmp_path, name(2)):
        found = {row.seed: row for row in rows(tmp_path)}
    assert {seed: row.state for seed, row in found.items()} == {
        0: "failed",
        1: "interrupted",
        2: "running",
        3: "interrupted",
        4: "waiting",
        5: "interrupted",
    }
    assert found[0].reason == "error: broken adapter"
    assert found[5].reason.startswith("its job ended without a record")
    running = found[2]
    assert (running.phase, running.done, running.total) == ("adapters", 30, 90)
    # 20 steps took 100 s, so that 60 more take 300, of which 10 have passed.
    assert running.remaining_seconds == pytest.approx(290, abs=2)
    assert running.remaining_from == "this phase alone"
    assert running.seconds == pytest.approx(200, abs=2)
    assert main(["--results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "6 runs: 0 running, 1 waiting, 4 interrupted, 1 failed, 0 left out, 0 done" in text
    assert "error: broken adapter" in text


def test_a_finished_run_like_it_says_how_long_a_run_takes(tmp_path, capsys):
    made = record_of(name(0))
    for seed, fields in enumerate(
        ({}, {"protocol": {**made["protocol"], "digest": OTHER}}, {"strategy": {"name": "losa"}})
    ):
        write_record(tmp_path / "records", record_of(name(seed), **fields))
    write_progress(tmp_path, progress_of(name(7)))
    write_record(tmp_path / "records", record_of(name(7), "error", message="of the time before"))
    with locked(tmp_path, name(7)):
        assert main(["--results", str(tmp_path), "--json", str(tmp_path / "status.json")]) == 0
        assert "1 finished like it" in capsys.readouterr().out
        assert main(["--results", str(tmp_path), "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {
        "running": 1,
        "waiting": 0,
        "interrupted": 0,
        "failed": 0,
        "left out": 0,
        "done": 3,
    }
    assert told["runs"][0]["remaining_seconds"] == pytest.approx(400, abs=3)  # 600 in all, 200 have passed
    assert told["runs"][0]["reason"] is None
    assert json.loads((tmp_path / "status.json").read_text())["counts"] == told["counts"]


def test_a_name_that_is_not_its_files_becomes_no_path(tmp_path):
    write_progress(tmp_path, progress_of(name(0)))
    write_job(tmp_path, Job(name(1), "vit-t", "losa", 1, "slurm", "../4", "here", 0.0))
    [path] = (tmp_path / "progress").iterdir()
    path.write_text(path.read_text().replace(name(0), "../../elsewhere_seed0_"))
    assert rows(tmp_path) == []
    assert not (tmp_path / "locks").exists()


def test_before_a_step_is_done_nothing_is_estimated():
    told = progress_of(name(0), done=10)
    assert told.phase_seconds_left() is None
    assert dataclasses.replace(told, done=11).phase_seconds_left() == pytest.approx(100 * 79, rel=0.02)


def test_a_folder_that_is_none_is_one_line(tmp_path, capsys):
    assert main(["--results", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"bench.status: --results: {tmp_path / 'none'} is no folder\n"
    assert main(["--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("0 runs:")


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (9.6, "10 s"), (60, "1 min 00 s"), (7265, "2 h 01 min")]
)
def test_durations_as_a_person_reads_them(seconds, text):
    assert duration(seconds) == text


def test_the_smallest_card_that_holds_a_forecast_is_asked_for():
    wishes = parse_slurm_options(["gpus=h200:141,a100:80,t4:16", "time=90", "qos=low", "exclusive=true"])
    assert wishes.cards == (("t4", CARDS["16"]), ("a100", CARDS["80"]), ("h200", CARDS["141"]))
    assert (wishes.minutes, dict(wishes.others)) == (90, {"qos": "low", "exclusive": True})
    assert wishes.has_gpus
    assert not SlurmOptions().has_gpus
    for needed, card in ((14 * GIBIBYTE, "t4"), (15 * GIBIBYTE, "a100"), (79.2 * GIBIBYTE, "h200")):
        assert smallest_card(needed, wishes.cards) == (card, ())
    card, [remark] = smallest_card(200 * GIBIBYTE, wishes.cards)
    assert card == "h200"
    assert "no card is large enough (214.7 GB are predicted, h200 has 150.0)" in remark
    card, [remark] = smallest_card(None, wishes.cards)
    assert (card, "there is no forecast" in remark) == ("h200", True)
    assert smallest_card(1, ()) == (None, ())


def test_time_is_measured_or_unknown():
    words = ["--strategies", "losa", "--device", "cpu", "--set", "losa.taps=1+3"]
    [spec] = specifications(parser().parse_args(words))
    run = resolve_run(spec, Dataset("d", "v", (), (), "data", Path(), Path()))
    alike = record_of(
        name(3),
        strategy=settings(run.strategy),
        protocol={"digest": run.protocol.digest()},
        dataset={"name": "d", "annotation_sha256": "data"},
        environment={"device_type": "cpu"},
    )
    minutes, line = measured_minutes(run, [alike])
    assert minutes == math.ceil(1.5 * 600 / 60) + 10
    assert line == f"time: 25 min = 1.5 x 600 s of {name(3)} + 10 min"
    longer = {**alike, "id": "longer", "cost": {**alike["cost"], "wall_seconds": 1200.0}}
    assert measured_minutes(run, [longer, alike])[0] == 40
    for change in (
        {"status": "error"},
        {"model": "vit-s"},
        {"strategy": {"name": "losa"}},
        {"protocol": {"digest": "other"}},
        {"dataset": {"name": "d", "annotation_sha256": "other"}},
        {"environment": {"device_type": "cuda"}},
        {"parallel": {"processes": 2}},
    ):
        assert measured_minutes(run, [{**alike, **change}]) is None, change


@pytest.mark.parametrize(("capability", "size"), [(None, 32 << 20), ((9, 0), 32 << 20), ((8, 0), 8320 << 10)])
def test_workspaces_are_those_of_the_card_and_elsewhere_the_largest(
    monkeypatch, tiny_dataset, capability, size
):
    from bench.memory.cuda_ops import workspace_bytes
    from bench.run.memory_check import forecast_request

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: capability is not None)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    words = ["--launcher", "slurm", "--device", "cuda", "--strategies", "head-only"]
    words += ["--dataset", str(tiny_dataset / "annotations.json"), "--data", str(tiny_dataset / "videos")]
    [spec] = specifications(parser().parse_args(words))
    asked = forecast_request(resolve_run(spec, spec.load_dataset())).workspace_bytes
    assert (asked or workspace_bytes(None)) == size
