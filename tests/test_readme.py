"""What the README says is true: its table, its example, its commands."""

import functools
import json
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from bench.records.record import read_folder
from bench.report.analysis.bootstrap import seed_difference
from bench.report.tables import comparison as tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_is_short():
    assert len(README.splitlines()) <= 150


def test_the_table_is_the_generated_one():
    comparisons = tables.comparisons(read_folder(ROOT / "results" / "records").records)
    [miniature] = [item for item in comparisons if item.dataset == "miniature"]
    assert between("table") == tables.short_markdown_table(miniature)


def between(marker):
    return re.search(rf"<!-- {marker} -->\n(.*?)<!-- /{marker} -->", README, re.DOTALL).group(1).strip()


@functools.cache
def shipped(folder, name="head-only"):
    """Return the records of a strategy on the miniature, by steps and seed."""
    records = read_folder(ROOT / "results" / folder / "records").records
    mine = [r for r in records if (r["dataset"]["name"], r["strategy"]["name"]) == ("miniature", name)]
    return {(record["protocol"]["steps"], record["seed"]): record for record in mine}


def test_what_stands_above_the_table_is_what_the_records_say():
    frozen, trained = (shipped("", name)[800, 0] for name in ("head-only", "full-finetune"))
    head, whole = (record["cost"]["trainable_parameters"] / 1e6 for record in (frozen, trained))
    data, device = frozen["dataset"], frozen["environment"]["device_type"].upper()
    said = [
        f"**Synthetic data**: {data['videos']['training']} generated training videos and",
        f"{data['videos']['testing']} test videos of {data['classes']} classes.",
        f"The backbone is a ViT of {whole - head:.2f} M parameters, the head has {head:.2f} M.",
        f"All rows on a {device}, **at {frozen['protocol']['steps']} steps**.",
    ]
    assert between("facts").replace("\n", " ") == " ".join(said)


def test_more_steps_are_better_by_as_much_as_it_says():
    runs = {**shipped(""), **shipped("steps")}
    average = {steps: 100 * runs[steps, 0]["metrics"]["map_average"] for steps in (800, 1600, 3200)}
    assert average[800] < average[1600] < average[3200]
    assert len({runs[steps, 0]["dataset"]["variant"] for steps in average}) == 1
    said = (
        f"With seed 0, head-only has {average[800]:.1f} % at 800 steps, {average[1600]:.1f} % at 1,600 and "
    )
    assert said + f"{average[3200]:.1f} % at 3,200 (`results/steps`)" in " ".join(README.split())


def test_the_control_is_as_far_from_losa_as_it_says():
    losa, control = (
        {("", seed): 100 * run["metrics"]["map_average"] for (_, seed), run in shipped("", name).items()}
        for name in ("losa", "mlp-control")
    )
    gain = seed_difference(losa, control)
    low, high = gain.low, gain.high
    said = (
        f"LoSA's gain over it is {gain.mean:+.1f} points, with a 95 % interval of {low:+.1f} to {high:+.1f}."
    )
    assert said in " ".join(README.split())
    assert low < 0 < high


def test_another_processor_with_the_same_kernels_gives_the_same_bits():
    for name in ("head-only", "lofi", "losa", "full-finetune"):
        main, earlier = shipped("", name), shipped("kernels/avx512", name)
        assert main.keys() == earlier.keys()
        for key, record in main.items():
            assert record["metrics"] == earlier[key]["metrics"]
            processors = [each["environment"]["processor"] for each in (record, earlier[key])]
            assert processors[0]["identification"] != processors[1]["identification"]
            assert processors[0]["instruction_set"] == processors[1]["instruction_set"]


def test_kernels_move_seeds_by_as_much_as_it_says():
    moved = max(max(row) - min(row) for row in averages_by_kernels().values())
    assert f"other CPU kernels move average mAP by up to {moved:.1f} points" in " ".join(README.split())


KERNELS = {"DEFAULT": "kernels/default", "AVX2": "kernels/avx2", "AVX512": "kernels/avx512"}
STRATEGIES = ("head-only", "lofi", "losa", "capacity-control", "full-finetune")


def averages_by_kernels():
    """Return average mAP in percent of seed 0 under each of KERNELS, by strategy."""
    rows = {}
    for name in STRATEGIES:
        runs = [shipped(folder, name)[800, 0] for folder in KERNELS.values()]
        assert [run["environment"]["processor"]["instruction_set"] for run in runs] == list(KERNELS)
        assert len({json.dumps(run["dataset"], sort_keys=True) for run in runs}) == 1
        assert len({run["environment"]["processor"]["identification"] for run in runs}) == 1
        rows[name] = [100 * run["metrics"]["map_average"] for run in runs]
    return rows


def test_the_report_s_page_has_the_table_of_kernels():
    lines = [
        "| strategy | `default` | `avx2` | `avx512` | range | standard deviation over 5 seeds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in averages_by_kernels().items():
        seeds = [100 * run["metrics"]["map_average"] for run in shipped("kernels/avx512", name).values()]
        assert len(seeds) == 5
        cells = [*row, max(row) - min(row), statistics.stdev(seeds)]
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in cells) + " |")
    assert "\n".join(lines) in (ROOT / "docs" / "report.md").read_text()


def test_predicted_peaks_are_those_of_the_forecasts():
    rows = json.loads((ROOT / "results" / "forecasts" / "vit-g.json").read_text())
    peaks = {r["backward"]: r["predicted_peak_bytes"] for r in rows if r["strategy"] == "full-finetune"}
    plain, checkpointed, streamed = (f"{size / 1e9:.0f} GB {name}" for name, size in peaks.items())
    assert f"{plain}, {checkpointed}, {streamed}" in " ".join(README.split())


def test_the_figures_exist():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).exists()


def test_the_example_is_that_of_the_package():
    [code] = blocks("python")
    assert code == (ROOT / "docs" / "example" / "bottleneck_adapters.py").read_text()


def test_the_default_strategies_are_those_of_its_table():
    from strategies import NAMED_GROUPS

    rows = re.findall(r"^\| `([\w-]+)` \|", README, re.MULTILINE)
    assert sorted(rows) == sorted(NAMED_GROUPS["default"])


@pytest.mark.parametrize("block", blocks(""))
def test_make_targets_and_verbs_exist(block):
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", block, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for command in re.findall(r"-m bench\.([a-z_]+)", block):
        process = subprocess.run(
            [sys.executable, "-m", f"bench.{command}", "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert process.returncode == 0
        assert "usage" in process.stdout


def test_choices_that_the_readme_names_are_the_defaults():
    from strategies import build_strategy

    losa = build_strategy("losa")
    assert (losa.taps, losa.grid, losa.width, losa.heads, losa.gated) == ((), 4, None, 4, True)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("doctor", ["my sets/a b.json", "--data", "/v w"]),
        ("bench", ["--dataset", "my sets/a b.json"]),
        ("bench", ["--data", "/v w", "--annotations", "c d.json"]),
        ("bench", ["--weights", "/home/me/e f.pth", "--cache", "g h", "--classifier", "i j.json"]),
        ("predict", ["k l.mp4", "--run", "m n.json", "--device", "cpu", "--weights", "/home/me/e f.pth"]),
    ],
)
def test_paths_with_spaces_are_one_word_to_make(target, expected):
    values = {
        **{"DATASET": "my sets/a b.json", "DATA": "/v w", "ANNOTATIONS": "c d.json", "CACHE": "g h"},
        **{"WEIGHTS": "~/e f.pth", "CLASSIFIER": "i j.json", "VIDEO": "k l.mp4", "RUN": "m n.json"},
        **{"DEVICE": "cpu", "HOME": "/home/me"},
    }
    words = ["make", "-n", "-s", target, *(f"{name}={value}" for name, value in values.items())]
    printed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = shlex.split(printed.splitlines()[-1])
    start = found.index(expected[0])
    assert found[start : start + len(expected)] == expected
