"""One thread a test process; no test fails because its machine is slow; what is costly is made once."""

import os
import shutil

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

# Two processes of one thread side by side are faster than one with two threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Return a function that gives a folder which ``make`` fills, once for all processes of a test run.

    What it holds is everybody's: a test that changes it works on a copy.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers
    base = base / "made-once"
    base.mkdir(exist_ok=True)

    def folder(name, make):
        place, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)  # of a worker that failed or was ended
                place.mkdir()
                make(place)
                done.touch()
        return place

    return folder


def pytest_collection_modifyitems(items):
    """Begin with the slow tests, so that no process ends with a long one while the other has none left."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
