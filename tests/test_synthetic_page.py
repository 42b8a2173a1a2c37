import json
from pathlib import Path

import numpy as np

from bench.config.presets import SYNTHETIC
from datasets.synthetic import SyntheticConfig
from datasets.synthetic.config import PICTURES_SHA256
from tests.synthetic_probes.table import tables

ROOT = Path(__file__).parents[1]
FOUND = json.loads((ROOT / "results" / "synthetic_probes.json").read_text())
PAGE = (ROOT / "docs" / "synthetic.md").read_text()


def mean_of(runs, key):
    return np.mean([run[key] for run in runs])


def test_the_page_s_tables_are_those_of_the_measurements():
    written = PAGE.partition("<!-- begin tables -->\n")[2].partition("\n<!-- end tables -->")[0]
    assert written == tables(FOUND)


def test_all_parts_were_measured_on_these_pictures():
    config = SyntheticConfig()
    variant = f"synthetic-{config.version}-{config.digest}-{PICTURES_SHA256['target'][:8]}"
    assert {part["dataset"] for part in FOUND.values()} == {variant}
    assert sorted(FOUND) == ["full-finetune", "head-only", "linear"]


def test_the_page_gives_the_sizes_of_configuration_and_preset():
    config = SyntheticConfig()
    counts = (config.training_videos, config.tuning_videos, config.testing_videos)
    assert "{} for training, {} for tuning, {} for testing".format(*counts) in PAGE
    assert f"learning rate {SYNTHETIC.learning_rate:g}".replace("0.004", "4e-3") in PAGE
    passes = SYNTHETIC.steps // SYNTHETIC.steps_per_epoch(config.training_videos)
    assert f"{SYNTHETIC.steps} steps are {passes} passes over the training videos" in PAGE


def test_the_design_s_goals_hold_on_tuning_videos():
    head, high = (FOUND[part]["measured"] for part in ("head-only", "full-finetune"))
    low = head["without"]
    assert all(55 <= run["class_agnostic_AP"] <= 75 for run in low)
    assert all(run["localization_and_background"] >= 100 / 3 for run in low)
    assert min(run["mAP"] for run in high) >= max(run["mAP"] for run in low) + 10
    assert mean_of(low, "mAP") >= mean_of(head["half the steps"], "mAP") + 1
    assert mean_of(head["twice the steps"], "mAP") < mean_of(low, "mAP") + 1
    for name in ("bounce-after-left", "bounce-after-right"):
        plain, told = (np.mean([run["AP"][name] for run in head[each]]) for each in ("without", "with"))
        assert told > plain + 5
        assert told > np.mean([run["AP"][name] for run in head["random"]]) + 5
    for questions in FOUND["linear"]["measured"].values():
        pair = questions["short-range pair"]
        cells = [value for reading, value in pair.items() if reading.endswith("cells")]
        assert max(cells) > pair["last layer, mean"] + 5
        assert questions["direction of the cue, during it"]["last layer, mean"] > 75
        later = {**questions["direction of the cue, 8 s later"]}
        constant, _ = later.pop("most frequent class"), later.pop("clips")
        assert all(abs(value - constant) < 3.05 for value in later.values())  # as the page says


def test_the_page_says_how_many_chosen_rates_are_at_the_edge():
    rows = (ROOT / "results" / "synthetic" / "tuning" / "tables" / "trials.csv").read_text().splitlines()
    chosen = [row for row in rows if row.endswith(("yes", 'at the edge"'))]
    edge = [row for row in chosen if "at the edge" in row]
    assert (len(edge), len(chosen)) == (5, 9)
    assert "five of nine rates lie at the edge" in " ".join(
        (ROOT / "docs" / "synthetic.md").read_text().split()
    )
