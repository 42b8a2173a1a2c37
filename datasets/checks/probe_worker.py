"""``python -m datasets.checks.probe_worker``: probes video files; may hang or crash on one."""

import dataclasses
from pathlib import Path
from typing import Any

from bench.io.errors import InputError
from bench.io.json_lines import serve


def main() -> None:
    """Answer requests until standard input closes."""
    serve(lambda request: look(Path(request["path"]), request["every_frame"]))


def look(path: Path, every_frame: bool) -> dict[str, Any]:
    """Return the facts of a file as JSON values, or its `error`; `decoded` counts frames if all are tried."""
    from datasets.video.frames import probe
    from datasets.video.index import inspect
    from datasets.video.pyav_reader import count_decodable

    try:
        facts = dataclasses.asdict(probe(path))
        if every_frame:
            facts["decoded"] = count_decodable(path, inspect(path).stream)
    except InputError as error:
        return {"error": str(error).removeprefix(f"{path}: ")}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return facts


if __name__ == "__main__":
    main()
