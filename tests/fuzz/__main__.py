"""``python -m tests.fuzz [--json N] [--texts N] [--binaries N] [--videos N] [--seed N] [--report FILE]``.

Hostile files by the thousand. Prints how often each outcome came up. The exit code is 1 if a file led to
anything but an answer or a refusal in one line: a traceback, a hang, a crash, a write elsewhere, code that
ran, memory without end, a dropped video. Such files are kept.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "datasets")]

import torch  # noqa: E402
from fuzz import binary_files, result_files, text_files, video_files  # noqa: E402
from fuzz.sandbox import MAX_BYTES, SECONDS, Findings  # noqa: E402
from tqdm import tqdm  # noqa: E402

from bench.io.writing import write_atomically  # noqa: E402
from bench.records.environment import describe  # noqa: E402

SHARE = 0.85
"""Of the JSON files: annotations and detections; the others are records and what lies beside them."""


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    result = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    add = result.add_argument
    add("--json", type=int, default=10_000, help="annotations, detections, scores, records, forecasts")
    add("--texts", type=int, default=500, help="text files and tables")
    add("--binaries", type=int, default=200, help="weights, checkpoints, encodings, archives")
    add("--videos", type=int, default=100, help="video files")
    add("--seed", type=int, default=0)
    add("--keep", type=Path, help="folder for the files that fail (default: a new one)")
    add("--report", type=Path, help="write what came of it there, as JSON")
    return result


def parts(options: argparse.Namespace) -> dict[str, tuple[Any, int, dict[str, Any]]]:
    """Return what is to be run: a module, a number of files, and which kinds."""
    texts = round(SHARE * options.json)
    return {
        "JSON": (text_files, texts, {"kinds": text_files.JSON}),
        "results' JSON": (result_files, options.json - texts, {"kinds": result_files.JSON}),
        "texts": (text_files, options.texts // 2, {"kinds": text_files.OTHERS}),
        "tables": (result_files, options.texts - options.texts // 2, {"kinds": result_files.OTHERS}),
        "binaries": (binary_files, options.binaries, {}),
        "videos": (video_files, options.videos, {}),
    }


def document(parts_found: dict[str, Findings], options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Return what came of it as JSON values."""
    import resource

    environment = describe(torch.device("cpu"))
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    everything = Findings()
    for found in parts_found.values():
        everything.add(found)
    return {
        "schema": 1,
        "seed": options.seed,
        "files": {name: sum(found.files.values()) for name, found in parts_found.items()},
        "kinds": {name: dict(sorted(found.files.items())) for name, found in parts_found.items()},
        "outcomes": {name: dict(sorted(found.outcomes.items())) for name, found in parts_found.items()},
        "tracebacks": everything.tracebacks,
        "hangs": everything.hangs,
        "stray_writes": everything.strays,
        "code_run": everything.runs,
        "failures": len(everything.failures),
        "limits": {"seconds": SECONDS, "bytes": MAX_BYTES},
        "slowest_seconds": round(everything.slowest, 2),
        "most_bytes_by_one_file": everything.most_bytes,
        "peak_bytes": peak * 1024,
        "seconds": round(seconds, 1),
        "environment": {
            name: environment[name]
            for name in ("commit", "dirty", "python", "platform", "packages", "device")
        },
    }


def main() -> int:
    """Run all parts, print their outcomes and failures."""
    options = parser().parse_args()
    warnings.simplefilter("ignore")  # of glyphs that no font has, and the like
    folder = options.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    found: dict[str, Findings] = {}
    started = time.monotonic()
    for name, (module, count, kinds) in parts(options).items():
        place = folder / "".join(filter(str.isalpha, name))
        place.mkdir(parents=True, exist_ok=True)
        with tqdm(total=count, desc=name, leave=False, disable=not sys.stderr.isatty()) as bar:
            found[name] = module.fuzz(place, count, options.seed, **kinds, tick=bar.update)
        print(f"{count} {name}, {len(found[name].failures)} failures", flush=True)
        for outcome, times in sorted(found[name].outcomes.items()):
            print(f"  {times:6d}  {outcome}")
    result = document(found, options, time.monotonic() - started)
    failures = [line for each in found.values() for line in each.failures]
    print(
        "\n".join([*failures, *(f"{key}: {result[key]}" for key in ("tracebacks", "hangs", "stray_writes"))])
    )
    if options.report:
        write_atomically(options.report, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
