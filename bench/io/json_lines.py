"""Worker processes that answer requests, one JSON object per line.

A request may have a time limit: the worker then sets an alarm (SIGALRM) whose default action ends the
process. Native code that hangs runs no Python signal handler, so a handler would not work.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import IO, Any

from bench.io import PROJECT_ROOT

KILL_SECONDS = 5.0
"""Longest wait for a killed process. One that is blocked on a dead disk does not end."""


def module_command(module: str) -> tuple[str, ...]:
    """Return the command that runs a module of this project, from any working directory."""
    # -P: a folder named datasets in the working directory must not be imported instead of this package.
    return (sys.executable, "-P", "-m", module)


def reserve_stdout() -> IO[str]:
    """Return a line-buffered stream to standard output, and redirect other output to standard error."""
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return stream


def serve(answer: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Answer the requests on standard input until it closes. A request's ``seconds`` is its time limit."""
    answers = reserve_stdout()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # the parent handles them and then closes the input
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request.get("seconds", 0))
        result = answer(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(result) + "\n")


class Worker:
    """A handle, in the parent, of a process that runs ``serve``."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stderr: int | None = subprocess.DEVNULL,
    ) -> None:
        paths = [str(PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            pass_fds=pass_fds,
            env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(paths)},
        )

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request; raise OSError where the process has ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def receive(self, until: float | None = None) -> dict[str, Any]:
        """Return the next answer.

        ``until`` is a time of ``time.monotonic``. Raises TimeoutError if there is no answer by then or the
        worker's own alarm ended it, and EOFError if the process ended for another reason.
        """
        output = self.process.stdout
        assert output is not None
        if until is not None:
            poll = select.poll()
            poll.register(output, select.POLLIN)
            if not poll.poll(1000 * max(0.0, until - time.monotonic())):
                raise TimeoutError
        if line := output.readline():
            return dict(json.loads(line))
        self._wait()
        if self.process.returncode in (None, -signal.SIGALRM):
            raise TimeoutError
        raise EOFError(f"exit code {self.process.returncode}")

    def end(self) -> int | None:
        """Wait briefly for a process that is about to end, kill it otherwise, and return its exit code."""
        self._wait()
        self.close()
        return self.process.returncode

    def close(self) -> None:
        """Kill the process."""
        self.process.kill()
        self._wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _wait(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(KILL_SECONDS)


@contextlib.contextmanager
def worker_threads(
    count: int, start: Callable[[], Worker]
) -> Iterator[tuple[Executor, Callable[[], Worker]]]:
    """Yield an executor of ``count`` threads, and a function that returns the calling thread's worker.

    A worker that has ended is replaced by a new one. All are closed, and calls not yet begun are cancelled,
    when the block ends.
    """
    local, started, lock = threading.local(), list[Worker](), threading.Lock()

    def worker() -> Worker:
        running: Worker | None = getattr(local, "worker", None)
        if running is None or not running.running:
            running = local.worker = start()
            with lock:
                started.append(running)
        return running

    pool = ThreadPoolExecutor(count)
    try:
        yield pool, worker
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for each in started:
            each.close()
        pool.shutdown(wait=True)
        for each in started:  # a thread may have started one meanwhile
            each.close()
