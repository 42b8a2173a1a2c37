"""The suite: what it measures in which order, its other parts, and that it goes on where it was stopped."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import psutil
import pytest

from bench.io import PROJECT_ROOT
from bench.measure import FOR_TESTS, PACKAGES
from bench.measure import suite as suite_of_all
from bench.measure.__main__ import parser
from bench.measure.rows import Prepared, configurations
from bench.measure.schedule import Budget
from bench.measure.suite import outcome, run_process, suite_requests
from bench.measure.summary import summary

DOCUMENT = PROJECT_ROOT / "docs" / "gpu.md"


def test_the_largest_model_comes_first_then_vit_b_over_frames_and_sizes_then_the_others():
    words = configurations()
    models = [each[1] for each in words]
    assert list(dict.fromkeys(models)) == ["vit-g", "vit-b", "vit-l", "vit-h", "vit-s"]
    assert [model for model, _ in itertools.groupby(models)][:2] == ["vit-g", "vit-b"]
    assert len(set(words)) == len(words)
    modes = [(each[3], each[5]) for each in words if each[1] == "vit-g"]
    first = [("head-only", "plain"), ("full-finetune", "streamed"), ("losa", "plain")]
    assert modes[:6] == [
        *first,
        ("full-finetune", "checkpointed"),
        ("lofi", "streamed"),
        ("full-finetune", "plain"),
    ]
    asked = [dict(zip(each[::2], each[1::2], strict=True)) for each in words]
    points = {(each["--frames"], each["--size"]) for each in asked if each["--model"] == "vit-b"}
    assert {int(frames) for frames, _ in points} == {96, 384, 768, 1536, 3072}
    assert {int(size) for _, size in points} == {112, 160, 224, 336}
    field = {each["--strategy"] for each in asked if each["--model"] == "vit-g"}
    assert {"adatad", "lora", "side-tuning", "etad"} <= field


def test_a_tiny_suite_has_the_first_rows_with_a_small_model():
    options = parser().parse_args(["--suite", "--tiny", "--device", "cpu"])
    asked = [(q.model, q.strategy, q.protocol["backward"], q.device) for q in suite_requests(options)]
    assert asked == [
        ("vit-t", "head-only", "plain", "cpu"),
        ("vit-t", "full-finetune", "streamed", "cpu"),
        ("vit-t", "losa", "plain", "cpu"),
        ("vit-t", "full-finetune", "checkpointed", "cpu"),
    ]


def test_a_process_of_a_part_is_ended_when_time_is_up_and_not_begun_without_time(monkeypatch, capsys):
    words = (sys.executable, "-c", "import time; time.sleep(600)")
    monkeypatch.setattr(suite_of_all, "module_command", lambda module: words)
    started = time.monotonic()
    assert run_process("probes", ["any"], Budget(1.0, "cpu"), 0.5) == -signal.SIGTERM
    assert time.monotonic() - started < 6
    assert run_process("probes", ["any"], Budget(1.0, "cpu"), 20.0) is None
    assert capsys.readouterr().err.splitlines() == [
        "probes: begins",
        "probes: stopped after 1 s",
        "probes: left out, 1 s left",
    ]


REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_gpu" name="test_a"/>
<testcase classname="tests.test_gpu" name="test_b"><failure message="assert 1 == 2&#10;more"/></testcase>
<testcase classname="tests.test_gpu" name="test_c"><skipped message="there are not two"/></testcase>
</testsuite></testsuites>"""


def test_results_of_tests_are_counted_and_kept(monkeypatch, tmp_path):
    def run(name, words, *_):
        assert words[:1] == ["pytest"]
        assert any(word.endswith("test_gpu.py") for word in words)
        [path] = [word.partition("=")[2] for word in words if word.startswith("--junitxml=")]
        Path(path).write_text(REPORT)
        return 1

    monkeypatch.setattr(suite_of_all, "run_process", run)
    monkeypatch.setattr(suite_of_all, "missing_packages", lambda names: [])
    options = SimpleNamespace(results=tmp_path)
    assert suite_of_all.run_tests(options, Budget(100, "cpu"), {"device": "a card"})
    found = json.loads((tmp_path / "tests.json").read_text())
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 1, 1)
    assert found["tests"]["tests.test_gpu.test_b"] == ["failed", "assert 1 == 2"]
    assert found["environment"] == {"device": "a card"}
    assert [path.name for path in tmp_path.iterdir()] == ["tests.json"]


def test_a_part_whose_packages_are_missing_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(suite_of_all, "missing_packages", lambda names: [n for n in names if n == "av"])
    options = SimpleNamespace(results=tmp_path, tiny=True, device="cpu", force=False)
    assert suite_of_all.run_tests(options, Budget(100, "cpu"), {})
    assert suite_of_all.run_miniature(options, Budget(100, "cpu"))
    assert capsys.readouterr().err.splitlines() == [
        "tests: left out, av missing",
        "miniature: left out, av missing",
    ]


def test_errors_outside_of_a_test_are_failures():
    case = ElementTree.fromstring('<testcase><error message="broken&#10;fixture"/></testcase>')
    assert outcome(case) == ("failed", "broken")


def test_the_summary_gives_error_and_share_of_the_same_devices_rate(tmp_path):
    folder = tmp_path / "memory"
    folder.mkdir()
    row = {
        **{"model": "vit-g", "strategy": "full-finetune", "settings": {}, "backward": "plain"},
        **{"frames": 768, "clips": 48, "image_size": 224, "batch_size": 1, "precision": "bfloat16"},
        **{"device": "cuda", "predicted_peak_bytes": 101 * 10**8, "kinds": {}, "phases": {}},
        **{"status": "ok", "message": None, "environment": {"device": "a card"}},
        "measured": {
            **{"peak_allocated_bytes": 10**10, "peak_reserved_bytes": 11 * 10**9, "peak_device_bytes": None},
            **{"seconds_per_step": 2.0, "clips_per_second": 24.0},
        },
        "backbone_operations": 8 * 10**14,
    }
    failed = {**row, "status": "out-of-memory", "message": "no room", "measured": None}
    for name, entry in (("a", row), ("b", {**row, "environment": {"device": "another"}}), ("c", failed)):
        (folder / f"{name}.json").write_text(json.dumps(entry))
    probes = {"matrix_rate": {"values": {"bfloat16_operations_per_second": 8e14}}}
    (tmp_path / "probes.json").write_text(json.dumps({"environment": {"device": "a card"}, "probes": probes}))
    lines = summary(tmp_path).splitlines()
    assert lines[0] == "matrix rate of a card in bfloat16: 800.0 TFLOP/s"
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:]]
    assert cells[0][5:] == ["10.100", "10.000", "+1.00", "11.000", "", "2.000", "24.0", "50.0", "ok"]
    assert cells[1][12] == ""
    assert cells[2][6:] == [*[""] * 7, "out-of-memory: no room"]


@pytest.mark.slow
def test_measuring_imports_only_the_packages_that_are_named():
    script = Path(__file__).with_name("imports_made.py")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    # NVML is asked about CUDA devices only.
    assert {*done.stdout.split(), "pynvml"} == set(PACKAGES)


def test_processes_follow_cores_and_memory(monkeypatch):
    options = parser().parse_args(["--suite"])

    def processes(cores, gibibytes):
        monkeypatch.setattr(suite_of_all, "processor_cores", lambda: cores)
        found = suite_of_all.settings_of(options, Prepared((), {}, gibibytes << 30))
        return found.builders, found.forecasters

    assert processes(16, 128) == (10, 5)
    assert "ten builders and five forecasts on\n16 cores" in DOCUMENT.read_text()
    assert processes(16, 20) == (3, 5)
    assert processes(2, 24) == (1, 1)


def test_the_page_names_the_packages():
    text = DOCUMENT.read_text()
    [measuring] = re.findall(r"Measuring imports (.*?)\.", text, re.DOTALL)
    assert re.findall(r"`(\w+)`", measuring) == list(PACKAGES)
    assert all(f"`{name}`" in text for name in FOR_TESTS)


@pytest.mark.slow
def test_a_stopped_suite_ends_its_processes_and_the_next_call_goes_on(tmp_path):
    words = ["--suite", "--tiny", "--device", "cpu", "--parts", "rows", "--results", str(tmp_path)]
    written = tmp_path / "memory"
    first, said = run_until(words, lambda: len(rows(written)) == 1, signal.SIGTERM)
    assert first == 130, said
    stamps = {path: path.stat().st_mtime_ns for path in rows(written)}
    assert stamps
    # SIGKILL reaches this process alone; its own notice that it is gone.
    run_until(words, lambda: len(rows(written)) > len(stamps), signal.SIGKILL)
    assert stamps.items() < {path: path.stat().st_mtime_ns for path in rows(written)}.items()


def rows(folder):
    return sorted(folder.glob("*.json"))


def run_until(words, reached, number):
    """Start the suite, send it a signal when ``reached``; no process of it may be left after 5 s."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.measure", *words],
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
    )
    until = time.monotonic() + 400
    while not reached() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(number)
    asked = time.monotonic()
    said = process.communicate(timeout=60)[1]
    _, alive = psutil.wait_procs(children, max(0.1, 5 - (time.monotonic() - asked)))
    with contextlib.suppress(psutil.Error):
        for each in alive:
            each.kill()
    assert not alive
    return process.returncode, said


def test_parts_are_made_in_the_order_given_and_those_before_the_rows_while_models_are_built(
    monkeypatch, tmp_path, capsys
):
    made = []
    monkeypatch.setattr(suite_of_all, "prepare_in_process", lambda *_: Prepared((), {"device": "a card"}, 0))
    monkeypatch.setattr(suite_of_all.Schedule, "begin", lambda *_: made.append("begin"))
    monkeypatch.setattr(suite_of_all.Schedule, "finish", lambda *_: made.append("rows"))
    monkeypatch.setattr(suite_of_all, "run_process", lambda name, *_: made.append(name) or 0)
    monkeypatch.setattr(suite_of_all, "missing_packages", lambda names: [])
    words = ["--suite", "--results", str(tmp_path), "--device", "cpu"]
    assert suite_of_all.run_suite(parser().parse_args([*words, "--parts", "miniature,probes,rows"])) == 0
    assert made == ["begin", "miniature", "probes", "rows"]
    made.clear()
    assert suite_of_all.run_suite(parser().parse_args(words)) == 1  # the tests have written no report
    assert made == ["begin", "probes", "rows", "tests", "miniature"]
