"""Commands end with an exit code and one line, and leave the process as it was."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.config.arguments import real, whole
from bench.io.errors import InputError
from bench.io.exit_code import CommandParser, run_command


@pytest.fixture
def parser():
    result = CommandParser(prog="python -m bench.example")
    result.add_argument("--workers", type=whole(1, 8))
    result.add_argument("--share", type=real(lambda value: 0 < value <= 1, "more than 0, at most 1"))
    result.add_argument("--kind", choices=("a", "b"))
    return result


@pytest.mark.parametrize("end", [None, InputError("x: no"), KeyboardInterrupt(), PermissionError(13, "no")])
def test_the_handler_of_sigterm_is_put_back(parser, end, capsys):
    seen = []

    def action(options):
        seen.append(signal.getsignal(signal.SIGTERM))
        if end is not None:
            raise end
        return 0

    before = signal.getsignal(signal.SIGTERM)
    code = run_command(parser, [], action)
    assert signal.getsignal(signal.SIGTERM) is before
    assert seen[0] is not before
    assert code == (0 if end is None else 130 if isinstance(end, KeyboardInterrupt) else 2)
    assert len(capsys.readouterr().err.splitlines()) == (0 if end is None else 1)


def test_a_fault_of_the_code_is_raised_and_the_handler_is_put_back(parser):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError):
        run_command(parser, [], lambda options: 1 // 0)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--workers", "0"], "--workers: got 0, allowed is 1 to 8"),
        (["--workers", "9"], "--workers: got 9, allowed is 1 to 8"),
        (["--workers", "x"], "--workers: got x, allowed is a whole number, 1 to 8"),
        (["--share", "nan"], "--share: got nan, allowed is more than 0, at most 1"),
        (["--share", "much"], "--share: got much, allowed is more than 0, at most 1"),
        (["--kind", "c"], "--kind: invalid choice: 'c'"),
        (["--other"], "unrecognized arguments: --other"),
    ],
)
def test_wrong_arguments_are_one_line_without_the_usage(parser, words, line, capsys):
    assert run_command(parser, words, lambda options: 0) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith(f"bench.example: {line}")


def test_without_installed_strategies_a_bench_says_so(monkeypatch, capsys, tmp_path):
    from bench.run.__main__ import main

    monkeypatch.setattr("strategies.entry_points", lambda group: ())
    assert main(["--strategies", "all", "--results", str(tmp_path / "results")]) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert "talbench is not installed" in error
    assert not (tmp_path / "results").exists()


def unread(*arguments, both=False, buffered=True):
    """Run a command whose standard output (and error) nobody reads; return its exit code and its errors."""
    read, write = os.pipe()
    os.close(read)
    try:
        process = subprocess.run(
            [sys.executable, *map(str, arguments)],
            stdout=write,
            stderr=write if both else subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"},
            cwd=Path(__file__).parents[3],
        )
    finally:
        os.close(write)
    return process.returncode, process.stderr or ""


@pytest.mark.parametrize("lines", [1, 100_000])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("buffered", [False, True])
def test_output_that_nobody_reads_ends_a_command_quietly(lines, both, buffered):
    code = (
        "import sys\nfrom bench.io.exit_code import CommandParser, run_command\n"
        "def action(options):\n"
        f"    print('x\\n' * {lines})\n"
        f"    {both} and print('y', file=sys.stderr)\n"
        "    return 0\n"
        "sys.exit(run_command(CommandParser(prog='example'), sys.argv[1:], action))\n"
    )
    assert unread("-c", code, both=both, buffered=buffered) == (1, "")
    # argparse ignores the failure if the text is written at once.
    assert unread("-c", code, "--help", both=both, buffered=buffered) == (int(buffered), "")
    assert unread("-c", code, "--unknown", buffered=buffered)[0] == 2


def test_doctor_and_evaluate_end_quietly_if_nobody_reads(tmp_path):
    video = {"subset": "training", "duration": 6, "annotations": [{"segment": [1, 2], "label": "run"}]}
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps({"database": {"a": video, "b": {**video, "subset": "testing"}}}))
    found.write_text(json.dumps({"results": {"b": [{"segment": [1, 2], "label": "run", "score": 1}]}}))
    assert unread("-m", "bench.doctor", truth) == (1, "")
    options = ("--subset", "testing", "--json", "-")
    assert unread("-m", "bench.evaluate", truth, found, *options) == (1, "")


def test_a_broken_pipe_elsewhere_is_a_fault_of_the_code(parser):
    def action(options):
        raise BrokenPipeError(32, "of a worker")

    with pytest.raises(BrokenPipeError):
        run_command(parser, [], action)
