"""What a hostile file may do: be read or be refused in one line, soon, in bounded memory, without a trace."""

import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.io.errors import InputError
from bench.io.text import MAX_MESSAGE_LENGTH

SECONDS = 30.0
MAX_BYTES = 3 * 2**30
"""What reading one file may add to the process's memory."""
WRITES = ("open", "os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link", "os.truncate", "os.chmod")
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "compile")
PROC = Path("/proc/self")


@dataclass
class Findings:
    """What came up: outcomes by kind and reader, failures in one line each, and the highest memory."""

    outcomes: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    tracebacks: int = 0
    hangs: int = 0
    strays: int = 0
    runs: int = 0
    most_bytes: int = 0
    """The most that one file added to the process's memory."""
    slowest: float = 0.0

    def add(self, other: "Findings") -> None:
        """Take in what another part found."""
        self.outcomes += other.outcomes
        self.files += other.files
        self.failures += other.failures
        for name in ("tracebacks", "hangs", "strays", "runs"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.most_bytes = max(self.most_bytes, other.most_bytes)
        self.slowest = max(self.slowest, other.slowest)


class Sandbox:
    """Runs readers on files below a folder and notes all that they should not do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found = Findings()
        self.reading = ""
        self.active = True

    def read(self, kind: str, reader: Callable[[Path], object], path: Path) -> str:
        """Return ``read``, ``refused`` or ``failed``, and note it."""
        name = f"{kind}, {reader.__name__}"
        started, low, before = time.monotonic(), _reset_peak(), len(self.found.failures)
        self.reading = f"{name} {path.name}"
        outcome = self._outcome(reader, path)
        read, self.reading = self.reading, ""
        self.found.slowest = max(self.found.slowest, time.monotonic() - started)
        added = _peak() - low
        self.found.most_bytes = max(self.found.most_bytes, added)
        if added > MAX_BYTES:
            self.found.failures.append(f"{read}: takes {added >> 20} MiB of memory")
        if len(self.found.failures) > before:
            outcome = "failed"
            kept = self.folder / "failures" / f"{len(self.found.failures)}-{path.name}"
            kept.parent.mkdir(exist_ok=True)
            if path.is_file():
                kept.write_bytes(path.read_bytes())
        self.found.outcomes[f"{name}: {outcome}"] += 1
        return outcome

    def _outcome(self, reader: Callable[[Path], object], path: Path) -> str:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            reader(path)
        except InputError as error:
            message = str(error)
            if (
                len(message.splitlines()) != 1
                or len(message) > MAX_MESSAGE_LENGTH
                or not message.isprintable()
            ):
                self.fail(f"message {message[:200]!r}")
            return "refused"
        except TimeoutError as error:
            self.found.hangs += 1
            self.fail(str(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.found.tracebacks += 1
            self.fail(f"{type(error).__name__}: {str(error)[:200]}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return "read"

    def fail(self, problem: str) -> None:
        """Note a failure of what is being read."""
        self.found.failures.append(f"{self.reading}: {problem}")

    def watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note a write outside of the folder, and everything that is run."""
        if not (self.active and self.reading):
            return
        if event in RUNS and not (event == "compile" and _ours(arguments)):
            self.found.runs += 1
            self.fail(f"{event} {str(arguments)[:100]}")
        if event not in WRITES:
            return
        if event == "open":
            flags = arguments[2]
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
                return
        paths = arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]
        for path in paths:
            if not isinstance(path, str | bytes | os.PathLike):
                continue
            if event == "os.mkdir" and os.path.isdir(path):
                continue  # it is asked for, and there
            # A write through a link goes where it leads, a renaming does not.
            text = os.fsdecode(path)
            real = os.path.realpath(text) if event in ("open", "os.truncate", "os.chmod") else _placed(text)
            if not real.startswith(f"{os.path.realpath(self.folder)}{os.sep}") and "__pycache__" not in real:
                self.found.strays += 1
                self.fail(f"{event} outside of the folder: {real[:200]}")


def _placed(path: str) -> str:
    return os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))


def _ours(arguments: tuple[Any, ...]) -> bool:
    """Whether a compilation is one of an import or a dataclass, not of what a file holds."""
    source = arguments[0]
    text = source if isinstance(source, bytes) else str(source or "").encode(errors="replace")
    return b"canary" not in text


@contextlib.contextmanager
def sandbox(folder: Path) -> Iterator[Sandbox]:
    """Give a watcher of readers that turns alarms into errors."""
    box = Sandbox(folder)

    def overdue(number: int, frame: Any) -> None:
        raise TimeoutError(f"takes longer than {SECONDS:g} s")

    sys.addaudithook(box.watch)  # it cannot be taken away again, only told to be quiet
    before = signal.signal(signal.SIGALRM, overdue)
    try:
        yield box
    finally:
        box.active = False
        signal.signal(signal.SIGALRM, before)


def tree(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder with their content, to be compared with what was there before."""
    return {
        str(path.relative_to(folder)): b"" if path.is_symlink() or path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def _reset_peak() -> int:
    """Return the bytes that the process holds, from which its peak is counted from now on."""
    with contextlib.suppress(OSError):
        (PROC / "clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    try:
        for line in (PROC / "status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
