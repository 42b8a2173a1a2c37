"""All that there is to measure on a card, in order of value: ``python -m bench.measure --suite``.

Parts: the probes, the rows of published models, the tests that need a card, the miniature, and real footage.
A part is begun only while time is left, and goes on where an earlier call has stopped. Models are built while
the parts before the rows have the card. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from bench.io import PROJECT_ROOT
from bench.io.errors import InputError
from bench.io.json_lines import module_command
from bench.io.writing import write_atomically
from bench.measure import FOR_TESTS, FOR_VIDEOS, missing_packages
from bench.measure.rows import Job, Prepared, configurations, prepare_in_process, waiting_measurements
from bench.measure.schedule import Budget, Schedule, Settings
from bench.measure.summary import summary
from bench.memory.constants import GIBIBYTE
from bench.plan.__main__ import parser as plan_parser
from bench.plan.request import ForecastRequest
from bench.run.worker.supervisor import kill_tree

PARTS = ("probes", "rows", "tests", "miniature", "footage", "forecasts")
END_SECONDS = 4.0
"""Time for a part's process to end by itself after SIGTERM; the time to write a summary is kept free, too."""
PROBE_SECONDS, MOST_PROBE_SECONDS = 20.0, 150.0
"""Least and most time for the probes, each of which is written at once."""
BENCH_SECONDS = 45.0
"""Least time for a bench or for the tests."""
BUILDER_BYTES = 8 * GIBIBYTE
"""Host memory for the building of a ViT-g, the largest model: its weights in float32, and what they need."""
TINY_ROWS = 4
TINY = ("--model", "vit-t", "--frames", "64", "--size", "16")
FOOTAGE_PROTOCOL = (
    "frames_per_second=25,image_size=128,window_clips=18,window_overlap=0,batch_size=2,steps=720,"
    "learning_rate=3e-4,warmup=0.0833,temporal_crop=false,ema_decay=0.999,head.embd_dim=256,head.head_dim=256,"
    "head.fpn_dim=256,head.levels=5,head.n_mha_win_size=9"
)
"""The reference protocol of docs/footage.md."""


def suite_requests(options: argparse.Namespace) -> list[ForecastRequest]:
    """Return the requests of all rows, each once, in order of value. Imports torch.

    With ``--tiny``, the first ones with a small model in place of theirs.
    """
    from bench.plan.grid import forecast_requests

    wanted = configurations()
    if options.tiny:
        wanted = [(*TINY, *words[2:]) for words in wanted[:TINY_ROWS]]
    found: list[ForecastRequest] = []
    for words in wanted:
        asked = forecast_requests(plan_parser().parse_args([*words, "--device", options.device]))
        found += [each for each in asked if each not in found]
    return found


def run_suite(options: argparse.Namespace) -> int:
    """Make the parts in their order; return 1 if any of them has failed, or something is left out."""
    started = time.monotonic()
    parts = list(dict.fromkeys(name.strip() for name in options.parts.split(",") if name.strip()))
    for name in parts:
        if name not in PARTS:
            raise InputError(f"--parts: unknown '{name}', known are {', '.join(PARTS)}")
    if "footage" in parts and options.data is not None and options.weights is None:
        raise InputError("--data: the footage needs --weights, the path of I3D's checkpoint")
    budget = Budget(options.seconds - END_SECONDS, options.device)
    forecasts_only = parts == ["forecasts"]
    prepared = Prepared((), {}, 0) if forecasts_only else prepare_in_process(options, suite_requests)
    make: dict[str, Callable[[], bool]] = {
        "probes": lambda: run_probes(options, budget),
        "tests": lambda: run_tests(options, budget, prepared.environment),
        "miniature": lambda: run_miniature(options, budget),
        "footage": lambda: run_footage(options, budget),
        "forecasts": lambda: complete_rows(options, budget),
    }
    before = parts[: parts.index("rows")] if "rows" in parts else []
    failed = "rows" in parts and measure_rows(options, budget, prepared, [make[name] for name in before])
    for name in parts:
        if name != "rows" and name not in before:
            failed |= make[name]()
    print(summary(options.results))
    say(f"{time.monotonic() - started:.0f} s")
    return 1 if failed else 0


def say(text: str) -> None:
    """Print one line on a part."""
    print(text, file=sys.stderr, flush=True)


def processor_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def settings_of(options: argparse.Namespace, prepared: Prepared) -> Settings:
    """Return the numbers of processes: five builders for three forecasts, as the cores and memory allow."""
    cores = processor_cores()
    by_memory = 1 + prepared.free_host_bytes // BUILDER_BYTES
    builders = options.builders or max(1, min(cores * 5 // 8, by_memory))
    return Settings(options.device, prepared.environment, builders, options.workers or max(1, cores // 3))


def measure_rows(
    options: argparse.Namespace, budget: Budget, prepared: Prepared, before: Sequence[Callable[[], bool]]
) -> bool:
    """Measure the rows that do not exist; return whether any of them has failed, or a part ``before``.

    Those parts have the device first, while models are built.
    """
    waiting = {path: row for path, _, row in waiting_measurements(options.results)}
    jobs = [job for job in prepared.jobs if options.redo or not job.path.exists()]
    # Those that only lack a forecast get it first.
    jobs.sort(key=lambda job: job.path not in waiting)
    with Schedule(settings_of(options, prepared), budget) as schedule:
        say(f"rows: {len(prepared.jobs) - len(jobs)} of {len(prepared.jobs)} exist")
        schedule.begin(jobs, {job.path: waiting[job.path] for job in jobs if job.path in waiting})
        failed = sum(part() for part in before) > 0
        schedule.turns.release()
        schedule.finish()
    if left := sum(not job.path.exists() for job in jobs):
        say(f"rows: {left} left; the same command goes on with them")
    return failed or bool(schedule.problems or left) or any(row["status"] == "error" for row in schedule.rows)


def run_probes(options: argparse.Namespace, budget: Budget) -> bool:
    """Probe the device; return whether a probe has failed."""
    words = ["bench.measure.probes", "--device", options.device, "--results", str(options.results)]
    return run_process("probes", words, budget, PROBE_SECONDS, MOST_PROBE_SECONDS) != 0


def complete_rows(options: argparse.Namespace, budget: Budget) -> bool:
    """Make the forecasts of measurements that have none, of any device; return whether one has failed."""
    waiting = waiting_measurements(options.results)
    failed = False
    # A forecast for CUDA changes how its process casts on a CPU, so that each kind has its own processes.
    for device in sorted({question.device for _, question, _ in waiting}):
        some = {path: (question, row) for path, question, row in waiting if question.device == device}
        jobs = [Job(question, path, 0.0, 0) for path, (question, _) in some.items()]
        with Schedule(settings_of(options, Prepared((), {}, 0)), budget) as schedule:
            schedule.begin(jobs, {path: row for path, (_, row) in some.items()})
            schedule.finish()
        failed |= bool(schedule.problems) or any(not job.path.exists() for job in jobs)
    return failed


def run_tests(options: argparse.Namespace, budget: Budget, environment: Mapping[str, Any]) -> bool:
    """Run the tests that need a card, and write ``tests.json``; return whether any has failed."""
    if missing := missing_packages(FOR_TESTS):
        say(f"tests: left out, {', '.join(missing)} missing")
        return True
    files = [
        path for path in sorted((PROJECT_ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()
    ]
    report, target = options.results / ".tests.xml", options.results / "tests.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    words = ["pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", f"--junitxml={report.absolute()}"]
    started = time.monotonic()
    code = run_process("tests", [*words, *map(str, files)], budget, BENCH_SECONDS)
    if code is None or not report.exists():
        return True
    cases = ElementTree.parse(report).getroot().iter("testcase")
    found = {f"{case.get('classname')}.{case.get('name')}": outcome(case) for case in cases}
    report.unlink()
    counts = {
        word: sum(each[0] == word for each in found.values()) for word in ("passed", "failed", "skipped")
    }
    seconds = round(time.monotonic() - started, 1)
    entry = {**counts, "seconds": seconds, "exit_code": code, "tests": found, "environment": environment}
    write_atomically(target, json.dumps(entry, indent=1).encode())
    say(f"tests: {', '.join(f'{number} {word}' for word, number in counts.items())}")
    return code != 0


def outcome(case: ElementTree.Element) -> tuple[str, str]:
    """Return how a test of pytest's JUnit report ended, and the first line of its message."""
    for kind, word in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        if (element := case.find(kind)) is not None:
            return word, (element.get("message") or "").partition("\n")[0][:300]
    return "passed", ""


def run_miniature(options: argparse.Namespace, budget: Budget) -> bool:
    """Compare all strategies on the embedded data set at five seeds; return whether a run has failed."""
    words = ["--model", "vit-t", "--dataset", "miniature", "--strategies", "default", "--seeds", "0,1,2,3,4"]
    if options.tiny:
        words = [*words[:4], "--strategies", "head-only", "--protocol", "steps=4"]
    # Runs side by side share the card: their accuracy is their own, their seconds are not.
    words += ["--workers", str(max(1, processor_cores() // 2))]
    return run_bench("miniature", words, options, budget)


def run_footage(options: argparse.Namespace, budget: Budget) -> bool:
    """Compare all strategies on real footage at five seeds, if given; return whether a run has failed."""
    if options.data is None:
        return False
    words = [
        "--model",
        "i3d",
        "--weights",
        options.weights,
        "--strategies",
        "default",
        "--seeds",
        "0,1,2,3,4",
    ]
    words += ["--dataset", str(options.data / "annotations.json"), "--data", str(options.data / "videos")]
    return run_bench("footage", [*words, "--protocol", FOOTAGE_PROTOCOL], options, budget)


def run_bench(name: str, words: Sequence[str], options: argparse.Namespace, budget: Budget) -> bool:
    """Run a bench with its records in the results; return whether it has failed or was left out."""
    if missing := missing_packages(FOR_VIDEOS):
        say(f"{name}: left out, {', '.join(missing)} missing")
        return True
    words = ["bench.run", *words, "--device", options.device, "--results", str(options.results)]
    words += ["--force"] if options.force else []
    return run_process(name, words, budget, BENCH_SECONDS) != 0


def run_process(
    name: str, words: Sequence[str], budget: Budget, least: float, most: float = float("inf")
) -> int | None:
    """Run a module until it ends or time is up; return its exit code, or None if it was not begun.

    It is asked to end by SIGTERM, then killed with its descendants.
    """
    if budget.left < least:
        say(f"{name}: left out, {max(0.0, budget.left):.0f} s left")
        return None
    say(f"{name}: begins")
    paths = [str(PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        module_command(words[0]) + tuple(words[1:]),
        cwd=PROJECT_ROOT,
        env={"KINETO_LOG_LEVEL": "99", **os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches only this process, which ends the other one
    )
    seconds = min(most, budget.left)
    try:
        return process.wait(None if seconds == float("inf") else seconds)
    except subprocess.TimeoutExpired:
        say(f"{name}: stopped after {seconds:.0f} s")
        return -signal.SIGTERM
    finally:
        if process.returncode is None:
            process.terminate()
            kill_tree(process, END_SECONDS - 1)
