"""``python -m datasets.miniature.worker``: renders and writes videos, one per request.

A separate process, not a fork or a spawn of the caller: it inherits none of the caller's threads, does not
import the caller's main module again, and starts in the time that NumPy and PyAV need.
"""

from pathlib import Path
from typing import Any

from bench.io.json_lines import serve
from datasets.miniature.config import MiniatureConfig
from datasets.miniature.writing import write_video


def render(request: dict[str, Any]) -> dict[str, str]:
    """Write the video of a request; return its pictures' `sha256`, or the `error` of the disk."""
    config = MiniatureConfig.from_json(request["config"])
    folder, subset, index = Path(request["folder"]), request["subset"], request["index"]
    try:
        return {"sha256": write_video(config, request["domain"], folder, subset, index)}
    except OSError as error:
        return {"error": error.strerror or str(error)}


if __name__ == "__main__":
    serve(render)
