"""The bench end to end on tiny real files: records, faults as rows, interruption, and bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import FAULTS, FOUR, ROOT, bench_command, records_of, run_bench, run_here

from bench.evaluate import main as evaluate
from bench.run.__main__ import main
from bench.status import main as status
from bench.verify import main as verify


def test_four_strategies_end_as_ok_rows(tiny_bench):
    results, process = tiny_bench
    records = records_of(results)
    assert sorted(records) == ["full-finetune", "head-only", "lofi", "losa"]
    assert all(name in process.stdout for name in records)
    assert str(results / "tables") in process.stdout
    for record in records.values():
        assert record["status"] == "ok"
        assert set(record["metrics"]["map"]) == {"0.3", "0.4", "0.5", "0.6", "0.7"}
        assert record["memory"]["meter"] == "cpu-tensors"
        assert {"forward", "backward", "optimizer", "inference"} <= set(record["memory"]["phases"])
        predicted, measured = (
            record["memory"][name] for name in ("predicted_peak_bytes", "peak_allocated_bytes")
        )
        assert abs(predicted / measured - 1) < 0.01
        assert record["forecast"]["predicted_peak_bytes"] == predicted
        assert record["weights"]["name"] == "random"
        assert record["dataset"]["videos"] == {"training": 4, "testing": 2}
        assert record["dataset"]["pictures_sha256"].keys() == {"training", "testing"}
        processor = record["environment"]["processor"]
        assert processor["model"] == record["environment"]["device"]
        assert processor["instruction_set"] == torch.backends.cpu.get_cpu_capability()
        assert record["cost"]["trainable_parameters"] <= record["cost"]["total_parameters"]
        assert (results / "detections" / f"{record['id']}.json.gz").exists()
    assert len({json.dumps(record["dataset"]) for record in records.values()}) == 1
    for name in ("comparison.csv", "comparison.md", "runs.csv"):
        assert (results / "tables" / name).stat().st_size
    drawn = {path.stem.split("_")[-1] for path in (results / "figures").glob("*.png")}
    assert drawn == {
        *("map-memory", "map-tiou", "loss", "timeline", "false-positives", "false-negatives"),
        *("fidelity", "gates"),
    }


def test_a_second_call_runs_nothing_and_changes_no_byte(tiny_bench, tiny_dataset, tmp_path, capsys):
    results = tmp_path / "results"
    shutil.copytree(tiny_bench[0], results)
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert main(bench_command(tiny_dataset, results, strategies=FOUR)[3:]) == 0
    assert "all 4 runs have records" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_the_detections_give_the_recorded_numbers_again(tiny_bench, tiny_dataset, capsys):
    results, _ = tiny_bench
    record = records_of(results)["full-finetune"]
    words = [
        str(tiny_dataset / "annotations.json"),
        str(results / "detections" / f"{record['id']}.json.gz"),
        "--subset",
        "testing",
        "--tiou",
        ".3:.7:.1",
        "--json",
        "-",
    ]
    assert evaluate(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["map"] == pytest.approx(list(record["metrics"]["map"].values()), abs=1e-12)
    assert found["average"] == pytest.approx(record["metrics"]["map_average"], abs=1e-12)


def test_the_other_verbs_find_the_bench_whole_and_done(tiny_bench, tmp_path, capsys):
    results = tmp_path / "results"
    shutil.copytree(tiny_bench[0], results)
    assert verify(["--results", str(results)]) == 1
    text = capsys.readouterr().out
    # All is in order but that nothing was tuned.
    assert [line for line in text.splitlines() if line.startswith("  ")] == [
        "  tuning trials: full-finetune 0, head-only 0, lofi 0, losa 0; "
        "a closed table has 4 or more, as many for each"
    ]
    assert "edited" not in text
    assert "4 records, of 4 of them detections" in text
    assert status(["--results", str(results)]) == 0
    counts = "0 running, 0 waiting, 0 interrupted, 0 failed, 0 left out, 4 done"
    assert f"4 runs: {counts}" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_metrics_bitwise(tiny_bench, tiny_dataset, tmp_path):
    results, _ = tiny_bench
    process = run_here(tiny_dataset, tmp_path, strategies="losa")
    assert process.returncode == 0, process.stderr
    first, second = records_of(results)["losa"], records_of(tmp_path)["losa"]
    assert first["metrics"] == second["metrics"]
    assert first["training"] == second["training"]
    name = f"{first['id']}.json.gz"
    assert (results / "detections" / name).read_bytes() == (tmp_path / "detections" / name).read_bytes()


@pytest.fixture
def failed(request, tiny_dataset, plugin, bench_once):
    """Return the bench of a fault: of the strategy that sleeps with a time limit, of all others without one.

    A loaded machine may take as long for a run that only fails as the limit is.
    """
    if request.node.callspec.params["fault"] == "sleep":
        return bench_once("stuck", tiny_dataset, "--timeout", "30", strategies="faulty-sleep", plugin=plugin)
    names = ",".join([*(f"faulty-{fault}" for fault in FAULTS if fault != "sleep"), "head-only"])
    return bench_once("failed", tiny_dataset, strategies=names, plugin=plugin)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("kill", "error", "SIGKILL"),
        ("memory", "out-of-memory", "MemoryError: no more"),
        ("error", "error", "broken adapter"),
        ("nan", "nan", "not finite"),
        ("sleep", "timeout", "longer than 30 s"),
    ],
)
def test_a_failure_is_a_row_and_the_others_go_on(fault, status, words, failed):
    results, process = failed
    records = records_of(results)
    record = records.pop(f"faulty-{fault}")
    assert process.returncode == 1
    assert record["status"] == status
    assert words in record["message"]
    assert record["phase"]
    assert record["metrics"] is None
    assert fault == "sleep" or records["head-only"]["status"] == "ok"
    assert f"faulty-{fault}: seed 0: {status}" in process.stdout
    assert "Traceback" not in process.stderr
    assert words in (results / "tables" / "comparison.md").read_text()


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def children_of(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_bench_leaves_no_child_and_goes_on(number, tiny_dataset, plugin, tmp_path):
    names = "head-only,faulty-sleep"
    command = bench_command(tiny_dataset, tmp_path, "--workers", "1", strategies=names)
    environment = {**os.environ, "PYTHONPATH": str(plugin), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert wait_for(lambda: "head-only" in records_of(tmp_path), 120)
        time.sleep(3)
        children = children_of(process.pid)
        assert children
        finished = {path: path.read_bytes() for path in (tmp_path / "records").glob("*head-only*")}
        process.send_signal(number)
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert wait_for(lambda: not any(os.path.exists(f"/proc/{child}") for child in children), 60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    records = records_of(tmp_path)
    assert records.get("faulty-sleep", {}).get("status") == (
        None if number == signal.SIGKILL else "cancelled"
    )
    again = run_bench(tiny_dataset, tmp_path, "--timeout", "2", strategies=names, plugin=plugin)
    assert "1 of 2 runs to do" in again.stderr
    assert {path: path.read_bytes() for path in finished} == finished


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "vit-x"], "unknown 'vit-x', known are vit-t"),
        (["--strategies", "magic"], "unknown 'magic', known are .*losa"),
        (["--dataset", "kinetics"], "kinetics.*miniature"),
        (["--protocol", "stepps=3"], "unknown field 'stepps'"),
        (["--set", "losa.width=256"], "'losa' is not among"),
        (["--set", "head-only.depth=2"], "unknown field 'depth', known are lr"),
        (["--seeds", "one"], "--seeds: got 'one'"),
        (["--device", "tpu"], "--device: got 'tpu'"),
        (["--weights", "/nonexistent.pt"], "/nonexistent.pt"),
        (["--results", "/proc/none"], "cannot be written"),
        (["--model", "vit-b", "--weights", "source"], "none are shipped for vit-b"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(options, words, tiny_dataset, tmp_path, capsys):
    from bench.run.__main__ import main

    code = main([*bench_command(tiny_dataset, tmp_path)[3:], *options])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert "\n" not in error
    assert re.search(words, error)
    assert not list(tmp_path.rglob("*.json"))


def break_file(folder, how):
    video = folder / "videos" / "clip_0.mp4"
    content = video.read_bytes()
    if how == "missing":
        video.unlink()
    else:
        video.write_bytes(
            {"empty": b"", "truncated": content[: len(content) // 3], "text": b"not a video" * 99}[how]
        )


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "text"])
def test_a_bad_video_is_one_line_and_exit_2(how, tiny_dataset, tmp_path, capsys):
    from bench.run.__main__ import main

    folder = tmp_path / "data"
    shutil.copytree(tiny_dataset, folder, ignore=shutil.ignore_patterns("cache"))
    break_file(folder, how)
    code = main(bench_command(folder, tmp_path / "results")[3:])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert error.count("\n") == 0
    assert "clip_0" in error
    assert not list((tmp_path / "results" / "records").glob("*.json"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:200], "annotations.json"),
        (lambda text: text.replace('"duration": 10.0', '"duration": "long"'), "duration"),
        (lambda text: text.replace("[1.0, 4.0]", "[4.0, 1.0]"), r"annotations\[0\].segment"),
        (lambda text: text.replace("[5.5, 9.0]", "[5.5, 99.0]"), r"annotations\[1\].segment"),
        (lambda text: text.replace("clip_0", "../clip_0"), "clip_0"),
        (lambda text: text.replace('"testing"', '"validation"'), "testing.*--protocol evaluation_subset=val"),
    ],
)
def test_bad_annotations_are_one_line_and_exit_2(change, words, tiny_dataset, tmp_path, capsys):
    from bench.run.__main__ import main

    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "videos").symlink_to(tiny_dataset / "videos")
    text = (tiny_dataset / "annotations.json").read_text()
    assert change(text) != text
    (folder / "annotations.json").write_text(change(text))
    code = main(bench_command(folder, tmp_path / "results")[3:])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert "\n" not in error
    assert re.search(words, error)
    assert not list((tmp_path / "results" / "records").glob("*.json"))
