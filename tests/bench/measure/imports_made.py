"""Print the packages that the project's own files import when a row is measured, one per line.

A process of its own: what is imported already is not seen. PyAV and decord are not to be had.
"""

import dataclasses
import sys
from importlib.machinery import PathFinder
from pathlib import Path

ROOT = Path(__file__).parents[3]
OURS = tuple(str(ROOT / name) for name in ("bench", "strategies", "datasets"))
found = set()


class Watching:
    """Notes who imports what; refuses what reads videos."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        package = name.partition(".")[0]
        frame = sys._getframe(1)
        while frame is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if frame is not None and frame.f_code.co_filename.startswith(OURS):
            found.add(package)
        if package in ("av", "decord", "torchcodec"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return (
            None if package not in ("bench", "strategies", "datasets") else PathFinder.find_spec(name, path)
        )


sys.meta_path.insert(0, Watching())
import bench.measure.__main__  # noqa: E402
import bench.measure.probes.__main__  # noqa: E402
import bench.measure.suite  # noqa: E402
from bench.measure.worker import Measuring  # noqa: E402
from bench.plan.request import ForecastRequest  # noqa: E402

bench.measure.__main__.parser()
question = dataclasses.asdict(
    ForecastRequest("vit-t", "head-only", {}, {"window_clips": "2", "image_size": "16"}, "cpu")
)
measuring = Measuring()
assert "row" in measuring.answer({"forecast": question})
assert measuring.answer({"build": question}) == {"built": True}
assert measuring.answer({"measure": "cpu"})["row"]["status"] == "ok"
from bench.measure.probes import attention, card, training  # noqa: E402, F401

print(*sorted(found - set(sys.stdlib_module_names) - {"bench", "strategies", "datasets"}), sep="\n")
