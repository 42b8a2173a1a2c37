"""What the README says is true: its table, its example, its commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.record import read_folder
from bench.report import tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_is_short():
    assert len(README.splitlines()) <= 150


def test_the_table_is_the_generated_one():
    shown = re.search(r"<!-- table -->\n(.*?)<!-- /table -->", README, re.DOTALL).group(1)
    comparisons = tables.comparisons(read_folder(ROOT / "results" / "records").records)
    [miniature] = [item for item in comparisons if item.dataset == "miniature"]
    assert shown.strip() == tables.short_markdown_table(miniature)


def test_the_figures_exist():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).exists()


def test_the_example_strategy_keeps_the_contract(tmp_path):
    code, contract = blocks("python")
    [points] = blocks("toml")
    (tmp_path / "my_strategy.py").write_text(code)
    (tmp_path / "test_mine.py").write_text(contract)
    metadata = tmp_path / "my_strategy-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-strategy\nVersion: 1.0\n")
    name, target = re.search(r'^(\S+) = "(.*)"$', points, re.MULTILINE).groups()
    (metadata / "entry_points.txt").write_text(f"[talbench.strategies]\n{name} = {target}\n")
    found = "from strategies import build_strategy; print(build_strategy('norm-tuning', {'norm_lr': '0.1'}))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", found], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert answer.stdout.strip() == "NormTuning(norm_lr=0.1)", answer.stderr
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "test_mine.py")]
    process = subprocess.run(test, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


@pytest.mark.parametrize("block", blocks(""))
def test_make_targets_and_verbs_exist(block):
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", block, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for verb in re.findall(r"-m bench\.([a-z_]+)", block):
        process = subprocess.run(
            [sys.executable, "-m", f"bench.{verb}", "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert process.returncode == 0
        assert "usage" in process.stdout


def test_choices_that_the_readme_names_are_the_defaults():
    from strategies import build_strategy

    losa = build_strategy("losa")
    assert (losa.taps, losa.grid, losa.width, losa.heads, losa.gated) == ((), 4, None, 4, True)
