"""``python -m tests.fuzz [--files N] [--videos N] [--seed N] [--keep DIR]``: wrong files by the thousand.

Prints how often each outcome came up. The exit code is 1 if a file led to anything but an answer or a
refusal in one line: a traceback, a hang, a crash, a write elsewhere, a dropped video. Such files are kept.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "datasets")]

from fuzz import text_files, video_files  # noqa: E402


def main() -> int:
    """Run both, print their outcomes and failures."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="annotation and submission files")
    parser.add_argument("--videos", type=int, default=500, help="video files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that fail (default: a new one)")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    failures = []
    for name, module, count in (("text", text_files, options.files), ("video", video_files, options.videos)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        outcomes, failed = module.fuzz(folder / name, count, options.seed)
        print(f"{count} {name} files, {len(failed)} failures")
        for outcome, times in sorted(outcomes.items()):
            print(f"  {times:6d}  {outcome}")
        failures += failed
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
