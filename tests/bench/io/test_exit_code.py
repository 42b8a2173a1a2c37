"""Commands end with an exit code and one line, and leave the process as it was."""

import signal

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
