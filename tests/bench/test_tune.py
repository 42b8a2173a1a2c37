"""Trials on tuning videos: equal for all, the best is chosen, written, and applied by a run."""

import json
from types import SimpleNamespace

import pytest
from conftest import records_of, run_all_here, run_here
from tiny import TINY

from bench.io.errors import InputError
from bench.records.record import read_folder
from bench.records.tuning import Trial, best, choose, read_choices, trials_for, unchosen, write_choices
from bench.run.options import DEFAULT_RESULTS, parser, specifications
from bench.tune import DEFAULT_FOLDER, TRIALS, at_the_edge, main, words_of, write_table


def run(average, seed=100, name="losa"):
    return {
        "id": f"{name}-{seed}-{average}",
        "seed": seed,
        "weights": {"sha256": "a" * 64},
        "metrics": {"map_average": average},
    }


def trials(**averages):
    return {
        name: [
            Trial(name, settings, (run(value, name=name),))
            for settings, value in zip(TRIALS[name], values, strict=True)
        ]
        for name, values in averages.items()
    }


LOSA, HEAD = (0.3, 0.5, 0.2, 0.4, 0.5, 0.1), (0.3, 0.1, 0.1, 0.3, 0.3, 0.3)


def test_the_best_is_chosen_and_of_equal_ones_the_default():
    found = trials(losa=LOSA, bitfit=HEAD)
    assert best(found["losa"]).settings == {"adapter_lr": "2"}
    choices = choose("vit-t", "miniature", found)
    assert choices.trials == 6
    assert choices.strategies["losa"].settings == {"adapter_lr": "2"}
    assert choices.strategies["bitfit"].settings == {}
    assert choices.strategies["losa"].map_average == 0.5


def test_unequal_trials_are_refused():
    with pytest.raises(InputError, match="allowed is the same number for every strategy"):
        choose("vit-t", "miniature", {**trials(losa=LOSA), "bitfit": trials(bitfit=HEAD)["bitfit"][:3]})
    lacking = trials(losa=LOSA)
    lacking["losa"][2] = Trial("losa", TRIALS["losa"][2], ())
    with pytest.raises(InputError, match="lacks finished runs of others"):
        choose("vit-t", "miniature", lacking)


def test_choices_are_written_read_and_applied(tmp_path):
    path = tmp_path / "chosen.json"
    write_choices(path, choose("vit-t", "miniature", trials(losa=(0.1, 0.2, 0.1, 0.3, 0.4, 0.1))))
    words = ["--strategies", "losa", "--device", "cpu", "--chosen", str(path)]
    [spec] = specifications(parser().parse_args(words))
    assert spec.strategy_settings == {"adapter_lr": "2", "input_norm": "scale"}
    assert spec.protocol().input_norm == "scale"
    assert spec.build_strategy().adapter_lr == 2.0
    assert spec.tuning == {
        "trials": 6,
        "digest": read_choices(path).digest,
        "settings": spec.strategy_settings,
    }
    with pytest.raises(InputError, match=r"--set: losa\.adapter_lr is of a strategy that --chosen has"):
        specifications(parser().parse_args([*words, "--set", "losa.adapter_lr=3"]))
    with pytest.raises(InputError, match="is of data set miniature, allowed is synthetic, as --dataset"):
        specifications(parser().parse_args([*words, "--dataset", "synthetic"]))
    with pytest.raises(InputError, match="has no strategy 'lofi', it has losa"):
        specifications(parser().parse_args(["--strategies", "lofi", "--chosen", str(path)]))
    with pytest.raises(InputError, match="is of model vit-t, allowed is i3d, as --model"):
        specifications(parser().parse_args(["--model", "i3d", "--weights", "random", "--chosen", str(path)]))


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda content: content.pop("digest"), "field 'digest' is missing"),
        (lambda content: content.update(trials=0), "field 'trials'"),
        (
            lambda content: content["strategies"]["losa"].update(settings=3),
            "field 'strategies.losa.settings'",
        ),
    ],
)
def test_a_wrong_file_is_named_with_its_field(tmp_path, spoil, named):
    path = tmp_path / "chosen.json"
    write_choices(path, choose("vit-t", "miniature", trials(losa=LOSA)))
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=named) as caught:
        read_choices(path)
    assert "chosen.json" in str(caught.value)


def test_the_table_has_every_trial(tmp_path):
    write_table(tmp_path, trials(losa=LOSA))
    lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert lines[1:] == [
        "losa,default,1,30.00,",
        'losa,adapter_lr=2,1,50.00,"yes, adapter_lr=2 at the edge"',
        "losa,adapter_lr=0.5,1,20.00,",
        "losa,input_norm=scale,1,40.00,",
        'losa,"adapter_lr=2, input_norm=scale",1,50.00,',
        'losa,"adapter_lr=0.5, input_norm=scale",1,10.00,',
    ]


def test_the_tuning_subset_is_the_card_s():
    given = dict.fromkeys(("model", "data", "annotations", "recipe", "weights", "device", "cache", "workers"))
    options = SimpleNamespace(**given, dataset=None, seeds="100", results="r", protocol=["steps=4"])
    assert words_of(options)[-4:] == ["--protocol", "evaluation_subset=tuning", "--protocol", "steps=4"]


@pytest.mark.parametrize("field", ["evaluation_subset=testing", "steps=4,training_subset=testing"])
def test_other_subsets_are_refused(field, capsys):
    assert main(["--protocol", field]) == 2
    assert "is set by bench.tune, allowed are the other fields" in capsys.readouterr().err


def test_trials_lie_beside_the_default_results():
    assert DEFAULT_FOLDER.parent == DEFAULT_RESULTS


def test_a_rate_between_others_is_not_at_the_edge():
    edges = [at_the_edge(Trial("losa", settings, ())) for settings in TRIALS["losa"][:3]]
    assert edges == ["", "adapter_lr=2", "adapter_lr=0.5"]


def test_annotations_are_known_by_their_file_name_in_every_folder():
    assert choose("vit-t", "/data/here/annotations.json", trials(losa=LOSA)).dataset == "annotations.json"


@pytest.mark.slow
def test_trials_run_choose_and_serve_a_run(tiny_dataset, tmp_path, monkeypatch, capsys):
    content = json.loads((tiny_dataset / "annotations.json").read_text())
    content["database"]["clip_3"]["subset"] = "tuning"
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    (tmp_path / "videos").symlink_to(tiny_dataset / "videos")
    monkeypatch.setattr("bench.run.scheduler.run_matrix", run_all_here)
    monkeypatch.setattr("bench.report.build", lambda results: SimpleNamespace(text=""))
    words = ["--dataset", str(tmp_path / "annotations.json"), "--data", str(tmp_path / "videos")]
    words += ["--weights", "random", "--device", "cpu", "--cache", str(tmp_path / "cache")]
    words += [word for change in TINY for word in ("--protocol", change)]
    chosen = tmp_path / "chosen.json"
    tuning = tmp_path / "results" / "tuning"
    tune = [*words, "--strategies", "head-only", "--results", str(tuning), "--write", str(chosen)]
    assert main(tune) == 0
    assert len(list((tuning / "records").glob("*.json"))) == 6
    assert (tuning / "tables" / "trials.md").read_text().count("| head-only |") == 6
    choices = read_choices(chosen)
    assert (choices.trials, list(choices.strategies)) == (6, ["head-only"])
    assert main(tune) == 0  # nothing is run again
    assert "all 6 runs have records" in capsys.readouterr().err
    process = run_here(tmp_path, tmp_path / "results", "--chosen", str(chosen))
    assert process.returncode == 0, process.stderr
    record = records_of(tmp_path / "results")["head-only"]
    assert record["tuning"]["digest"] == choices.digest
    assert record["tuning"]["settings"] == choices.strategies["head-only"].settings
    mine = trials_for(record, read_folder(tuning / "records").records)
    assert len(mine) == 6
    assert unchosen({"head-only": [record]}, mine) == []
    assert unchosen({"head-only": [{**record, "strategy": {"name": "head-only"}}]}, mine) != []
