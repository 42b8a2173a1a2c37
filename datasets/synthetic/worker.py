"""``python -m datasets.synthetic.worker``: renders and writes videos, one per request."""

from pathlib import Path
from typing import Any

from bench.io.json_lines import serve
from datasets.synthetic.config import SyntheticConfig
from datasets.synthetic.generate import write_video


def render(request: dict[str, Any]) -> dict[str, str]:
    """Write the video of a request; return its pictures' `sha256`, or the `error` of the disk."""
    config = SyntheticConfig.from_json(request["config"])
    try:
        return {"sha256": write_video(config, Path(request["folder"]), request["subset"], request["index"])}
    except OSError as error:
        return {"error": error.strerror or str(error)}


if __name__ == "__main__":
    serve(render)
