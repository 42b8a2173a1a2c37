"""The rule checker on some of the committed records, whole and spoilt."""

import json
import shutil
from pathlib import Path

import pytest

from bench.config.digest import DEFAULTS_OF_NEW_FIELDS, with_new_fields
from bench.records.paths import detections_path, ground_truth_path
from bench.records.record import read_folder
from bench.records.tuning import recorded_trials, results_digest
from bench.verify import identifiers, main, protocol_digest

SHIPPED = Path(__file__).parents[2] / "results"
RESULTS = SHIPPED / "miniature-1"
"""Records of an earlier version, which lack what came later."""
RECORDS = [
    record
    for record in read_folder(RESULTS / "records").records
    if record["dataset"]["name"] == "miniature"
    and record["strategy"]["name"] in ("head-only", "losa")
    and record["seed"] in (0, 1)
]


@pytest.fixture
def folder(tmp_path):
    for record in RECORDS:
        for part in (detections_path(RESULTS, record["id"]), ground_truth_path(RESULTS, record)):
            target = tmp_path / part.relative_to(RESULTS)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(part, target)
        write(tmp_path, chosen(record))
    for name in ("head-only", "losa"):
        for number in range(4):
            write(tmp_path / "tuning", trial(name, number))
    return tmp_path


def chosen(record):
    """Return a record that says that its settings were chosen from the trials."""
    trials = [trial(name, number) for name in ("head-only", "losa") for number in range(4)]
    digest = results_digest(recorded_trials(trials))
    return {**json.loads(json.dumps(record)), "tuning": {"trials": 4, "digest": digest, "settings": {}}}


def trial(name, number, **protocol):
    record = json.loads(json.dumps(next(each for each in RECORDS if each["strategy"]["name"] == name)))
    record |= {"id": f"trial-{name}-{number}-{len(protocol)}", "seed": 100}
    if number:
        record["strategy"]["lr"] = 1.0 + number
    record["metrics"]["map_average"] -= number / 100
    record["protocol"] |= {"evaluation_subset": "tuning", **protocol}
    return record


def write(folder, record):
    (folder / "records").mkdir(parents=True, exist_ok=True)
    (folder / "records" / f"{record['id']}.json").write_text(json.dumps(record))


def spoilt(number=0):
    return chosen(RECORDS[number])


def check(folder, capsys):
    code = main(["--results", str(folder)])
    return code, capsys.readouterr().out


def test_whole_records_of_one_protocol_are_closed(folder, capsys):
    code, text = check(folder, capsys)
    assert len(RECORDS) == 4
    assert (code, text.count("closed: ")) == (0, 1)
    assert "2 rows, seeds 0, 1" in text
    assert "4 records, of 4 of them detections" in text


def test_every_shipped_folder_is_intact_and_open_for_no_reason_but_its_extent(capsys):
    old = ("miniature-1", "miniature-1/papers", "miniature-1/tuning")
    others = ("processes", "footage", "kernels/default", "kernels/avx2", "kernels/avx512")
    others += ("steps", "budgets", "strategies")
    for name in ("", *old, *others):
        path = SHIPPED / name
        code, text = check(path, capsys)
        assert "edited" not in text, path
        assert "foreign" not in text, path
        reasons = [line for line in text.splitlines() if line.startswith("  ")]
        few = ("  only ", "  seeds differ: ", "  differs from the table of protocol ", "  tuning trials: ")
        few += ("  exploration on tuning videos",)
        assert all(line.startswith(few) for line in reasons), path
        assert code == (1 if reasons else 0)
        if name in ("", "miniature-1", "miniature-1/tuning", *others[2:5], "budgets"):
            assert all(line.startswith(few[3:]) for line in reasons)


def test_runs_of_several_processes_have_ids_of_their_own(folder, capsys):
    (path,) = (SHIPPED / "processes" / "records").iterdir()
    record = json.loads(path.read_text())
    write(folder, record)
    assert "edited" not in check(folder, capsys)[1]
    record["parallel"]["processes"] = 4
    write(folder, record)
    assert f"edited: {record['id']}: field 'id'" in check(folder, capsys)[1]
    record["parallel"] = {"processes": 2}
    write(folder, record)
    assert "field 'parallel.sharded' is missing" in check(folder, capsys)[1]


def see_other_pictures(record):
    record["dataset"]["pictures_sha256"] = {"training": "0" * 64, "testing": "1" * 64}


def test_records_of_other_pictures_stand_apart(folder, capsys):
    for record in RECORDS:
        other = chosen(record)
        if other["seed"] == 1:
            see_other_pictures(other)
        write(folder, other)
    code, text = check(folder, capsys)
    assert (code, text.count("closed: ")) == (0, 2)
    assert "pictures not recorded" in text


def test_a_seed_that_is_there_twice_opens_the_table(folder, capsys):
    record = spoilt()
    record["environment"]["device_type"] = "cuda"
    record["id"] = max(identifiers(record))
    write(folder, record)
    code, text = check(folder, capsys)
    assert code == 1
    assert f"{record['strategy']['name']}: seed {record['seed']} is there 2 times" in text
    record["environment"]["device_type"] = "cpu"
    write(folder, record)
    assert f"edited: {record['id']}: field 'id'" in check(folder, capsys)[1]


def raise_map(record):
    record["metrics"]["map"]["0.5"] += 0.05
    record["metrics"]["map_average"] += 0.01


def fewer_steps(record):
    record["protocol"]["steps"] = 400


def another_seed(record):
    record["seed"] = 7


def less_memory(record):
    record["memory"]["peak_allocated_bytes"] -= 1


def fewer_instances(record):
    record["dataset"]["instances"]["testing"] -= 1


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (raise_map, "field 'metrics.map.0.5' is"),
        (fewer_steps, "field 'protocol.digest'"),
        (another_seed, "field 'id'"),
        (less_memory, "field 'memory.peak_allocated_bytes'"),
        (fewer_instances, "field 'dataset.instances'"),
    ],
)
def test_an_edited_record_is_named(folder, capsys, spoil, named):
    record = spoilt()
    spoil(record)
    write(folder, record)
    code, text = check(folder, capsys)
    assert code == 1
    assert f"edited: {record['id']}: {named}" in text


def test_a_missing_seed_opens_the_table(folder, capsys):
    (folder / "records" / f"{RECORDS[0]['id']}.json").unlink()
    code, text = check(folder, capsys)
    assert code == 1
    assert "closed: " not in text
    assert "seeds differ: head-only [1]; losa [0, 1]" in text


def test_another_protocol_stands_apart_with_its_difference(folder, capsys):
    record = spoilt()
    record["protocol"]["steps"] = 400
    record["protocol"]["digest"] = protocol_digest(record["protocol"])
    record["id"] = min(identifiers(record))
    record["status"], record["metrics"] = "nan", None
    write(folder, record)
    code, text = check(folder, capsys)
    assert code == 1
    assert text.count("closed: ") == 1
    assert "only head-only is there" in text
    assert "protocol.steps: 800 and 400" in text
    assert "edited" not in text


def test_unequal_trials_open_the_table(folder, capsys):
    write(folder / "tuning", trial("losa", 4))
    assert "tuning trials: head-only 4, losa 5; a closed table has 4 or more" in check(folder, capsys)[1]


@pytest.mark.parametrize("left", [0, 3])
def test_fewer_than_four_trials_open_the_table(folder, capsys, left):
    for path in (folder / "tuning" / "records").glob("*.json"):
        if int(path.stem.split("-")[-2]) >= left:
            path.unlink()
    code, text = check(folder, capsys)
    assert code == 1
    assert f"tuning trials: head-only {left}, losa {left}; a closed table" in text


def test_a_trial_of_other_seeds_than_the_others_does_not_count(folder, capsys):
    write(folder / "tuning", trial("losa", 0) | {"id": "trial-losa-again", "seed": 101})
    assert "tuning trials: head-only 4, losa 3; a closed table" in check(folder, capsys)[1]


@pytest.mark.parametrize("subset", ["testing", "training"])
def test_trials_are_on_tuning_videos(folder, capsys, subset):
    write(folder / "tuning", trial("losa", 7, evaluation_subset=subset))
    assert check(folder, capsys)[0] == 0


@pytest.mark.parametrize("place", [("weights", "sha256"), ("dataset", "variant")])
def test_trials_of_other_weights_or_data_do_not_count(folder, capsys, place):
    record = trial("losa", 3)
    record[place[0]][place[1]] = "0" * 64
    write(folder / "tuning", record)
    assert "tuning trials: head-only 4, losa 3; a closed table" in check(folder, capsys)[1]


def test_weights_of_one_group_share_their_trials(folder, capsys):
    records = [*folder.glob("records/*.json"), *folder.glob("tuning/records/*.json")]
    for path in records:
        record = json.loads(path.read_text())
        record["weights"] |= {"group": "sources"}
        if record["id"].startswith("trial"):
            record["weights"]["sha256"] = "0" * 64
        path.write_text(json.dumps(record))
    assert check(folder, capsys)[0] == 0


def test_settings_that_are_not_those_of_the_best_trial_open_the_table(folder, capsys):
    better = trial("losa", 2)
    better["metrics"]["map_average"] = 0.99
    write(folder / "tuning", better)
    code, text = check(folder, capsys)
    assert code == 1
    assert "losa: its settings are not those of the best trial on tuning videos" in text
    assert "head-only: its settings" not in text
    assert "losa: field 'tuning.digest' is not that of the recorded trials" in text


def test_defaults_that_nothing_has_chosen_open_the_table(folder, capsys):
    for record in RECORDS:
        write(folder, record)
    code, text = check(folder, capsys)
    assert code == 1
    assert "losa: trials are recorded, but field 'tuning' is missing: nothing was chosen" in text


def test_a_digest_of_other_trials_opens_the_table(folder, capsys):
    for record in RECORDS:
        write(folder, {**record, "tuning": {"trials": 4, "digest": "a" * 64, "settings": {}}})
    code, text = check(folder, capsys)
    assert code == 1
    assert "head-only: field 'tuning.digest' is not that of the recorded trials" in text


def test_edited_intervals_are_named(folder, capsys):
    (folder / "bootstrap").mkdir()
    (folder / "bootstrap" / "table.json").write_text('{"digest": "a", "differences": []}')
    code, text = check(folder, capsys)
    assert code == 1
    assert "edited: bootstrap/table.json: field 'content_sha256'" in text


def test_exploration_that_was_not_equal_is_counted(folder, capsys):
    write(folder / "tuning", trial("losa", 5, steps=10))
    write(folder / "exploration", trial("losa", 6))
    write(folder / "exploration", trial("head-only", 6))
    code, text = check(folder, capsys)
    assert code == 0
    assert "exploration on tuning videos, not equal for all: head-only 1, losa 2 runs" in text


def test_chosen_and_default_settings_side_by_side_open_the_table(folder, capsys):
    write(folder, {**spoilt(), "tuning": {"trials": 4, "digest": "a" * 64, "settings": {}}})
    assert "tuning: some runs have chosen settings, others have not" in check(folder, capsys)[1]


def test_a_foreign_file_is_named(folder, capsys):
    (folder / "records" / "other.json").write_text('{"schema": 9}')
    code, text = check(folder, capsys)
    assert code == 1
    assert "foreign: other.json" in text


def test_no_record_is_bad_input(tmp_path, capsys):
    assert main(["--results", str(tmp_path)]) == 2
    assert "holds no record" in capsys.readouterr().err


def lose_weights(record):
    del record["weights"]["sha256"]


def lose_thresholds(record):
    record["protocol"]["tiou"] = None


def no_number(record):
    record["metrics"]["map_average"] = float("nan")


def path_for_hash(record):
    record["dataset"]["annotation_sha256"] = "../../../etc"


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lose_weights, "field 'weights.sha256' is missing"),
        (lose_thresholds, "field 'protocol.tiou' is None"),
        (no_number, "NaN: a finite number is needed"),
        (path_for_hash, "field 'dataset.annotation_sha256' is '../../../etc', allowed is a sha256"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(folder, capsys, spoil, named):
    record = spoilt()
    spoil(record)
    write(folder, record)
    code, text = check(folder, capsys)
    assert code == 1
    assert f"foreign: {record['id']}.json: " in text
    assert named in text


def test_a_record_with_later_fields_shares_a_closed_table_with_older_ones(folder, capsys):
    record = spoilt()
    assert not DEFAULTS_OF_NEW_FIELDS.keys() & record["protocol"].keys()
    record["protocol"] = with_new_fields(record["protocol"])
    write(folder, record)
    code, text = check(folder, capsys)
    assert (code, text.count("closed: ")) == (0, 1)
    record["protocol"]["classifier_top"] = 1
    write(folder, record)
    code, text = check(folder, capsys)
    assert code == 1
    assert "not that of the protocol's fields" in text
