"""One rendering process: a job on standard input, for every file written a line on standard output.

A process of its own, and not a fork or a spawn of the caller: it inherits none of the caller's threads, does
not import the caller's main module again, and starts in the time that NumPy and PyAV need.
"""

import json
import sys
from pathlib import Path

from datasets.miniature.config import MiniatureConfig
from datasets.miniature.writing import FAILED, file_name, write_video


def main() -> None:
    """Do the job: its configuration, its domain, the folder, and pairs of a subset and an index."""
    job = json.load(sys.stdin)
    config = MiniatureConfig.from_json(job["config"])
    for subset, index in job["videos"]:
        try:
            digest = write_video(config, job["domain"], Path(job["folder"]), subset, index)
        except OSError as error:
            print(f"{FAILED}{error.strerror or error}", flush=True)
            return
        print(file_name(subset, index), digest, flush=True)


if __name__ == "__main__":
    main()
