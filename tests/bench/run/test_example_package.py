"""The strategy of docs/example: a package of its own, installed by pip, with the public interface alone."""

import ast
import json
import os
import shutil
import subprocess
import sys

import pytest
from tiny import ROOT, bench_command, make_dataset

EXAMPLE = ROOT / "docs" / "example"
PUBLIC = {"bench.models.backbone", "strategies.base", "strategies.testing"}


@pytest.fixture(scope="module")
def installed(made_once):
    """Return a folder with the package as pip installs it."""

    def make(folder):
        source = folder / "source"  # pip builds in the source folder
        shutil.copytree(EXAMPLE, source)
        options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), "."]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return made_once("example", make) / "site"


def run(installed, *command):
    path = os.pathsep.join([str(installed), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_its_contract_test_passes(installed):
    tests = str(EXAMPLE / "tests")
    done = run(
        installed, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tests, tests
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


@pytest.mark.slow
def test_it_is_found_and_trained_by_its_name(installed, tmp_path):
    found = "from strategies import build_strategy, installed; installed()['bottleneck']; "
    found += "print(build_strategy('bottleneck', {'hidden': '8'}))"
    done = run(installed, sys.executable, "-c", found)
    assert done.stdout.strip() == "BottleneckAdapters(hidden=8, adapter_lr=1.0)", done.stderr
    make_dataset(tmp_path)
    words = ("--set", "bottleneck.hidden=8")
    done = run(
        installed, *bench_command(tmp_path, tmp_path / "results", *words, strategies="head-only,bottleneck")
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "records").glob("*.json")]
    trained = {record["strategy"]["name"]: record["cost"]["trainable_parameters"] for record in records}
    # Of vit-t: four layers of 64 channels, of which each has a bottleneck of 8.
    assert trained["bottleneck"] - trained["head-only"] == 4 * (64 * 8 + 8 + 8 * 64 + 64)


def test_it_uses_the_public_interface_alone():
    for path in EXAMPLE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {name for name in modules if name.split(".")[0] in ("bench", "strategies")} <= PUBLIC
