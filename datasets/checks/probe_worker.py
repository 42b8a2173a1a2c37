"""``python -m datasets.checks.probe_worker``: probes video files; may hang or crash on one."""

import dataclasses
from pathlib import Path
from typing import Any

from bench.io.errors import InputError
from bench.io.json_lines import serve


def main() -> None:
    """Answer requests until standard input closes."""
    serve(lambda request: look(Path(request["path"]), request["every_frame"], request["rate"]))


def look(path: Path, every_frame: bool, rate: float | None) -> dict[str, Any]:
    """Return the facts of a file as JSON values, or its `error`; `decoded` counts frames if all are tried."""
    from datasets.video.frames import probe

    try:
        facts = dataclasses.asdict(probe(path, rate))
        if every_frame:
            facts["decoded"] = _decodable(path, rate)
    except InputError as error:
        return {"error": str(error).removeprefix(f"{path}: ")}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return facts


def _decodable(path: Path, rate: float | None) -> int:
    """Return how many frames of a file, or images of a folder, can be decoded."""
    from datasets.video.image_folder import read_image
    from datasets.video.index import inspect
    from datasets.video.pyav_reader import count_decodable

    index, count = inspect(path, rate), 0
    if not index.images:
        return count_decodable(path, index.stream)
    for name in index.images:
        try:
            read_image(path / name)
        except InputError:
            continue
        count += 1
    return count


if __name__ == "__main__":
    main()
