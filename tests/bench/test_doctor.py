"""The doctor: what it finds in annotations and videos, what it prints, and how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.doctor import main
from bench.io.errors import InputError
from datasets.checks import probing
from datasets.checks.probing import Probing, probe_files
from datasets.checks.window_proposal import propose

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "datasets"))
from movies import damage, write  # noqa: E402

ANNOTATIONS = ROOT.parent / "shared" / "data" / "annotations"
needs_shared = pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="../shared/data is not there")


def entry(*segments, duration=6.0, **more):
    annotations = [{"segment": [start, end], "label": label} for start, end, label in segments]
    return {"subset": "training", "duration": duration, "annotations": annotations, **more}


TESTED = {"subset": "testing", "duration": 6.0, "annotations": [{"segment": [1, 2], "label": "run"}]}


def saved(folder, database):
    """Write annotations; a testing video makes them complete, and its file is written as well."""
    database = {**database, "tested": TESTED}
    write(folder / "tested.mp4", frames=61)
    path = folder / "annotations.json"
    path.write_text(json.dumps({"database": database}))
    return path


def examined(capsys, *arguments):
    code = main([*map(str, arguments), "--json", "-"])
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    return code, report, {(f["level"], f["kind"], f["video"]) for f in report["findings"]}


def test_own_data_without_fault_end_well(tmp_path, capsys):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.mp4")
    path = saved(tmp_path, {"a": entry((1, 2, "run"), fps=10), "b": entry((1, 5, "jump"), (2, 3, "run"))})
    code, report, found = examined(
        capsys, path, "--data", tmp_path, "--cache", tmp_path / "c", "--every-frame"
    )
    assert (code, found) == (0, set())
    assert report["files"] == {"opened": 3, "rates": {"10": 3}}
    numbers = report["subsets"]["training"]
    assert (numbers["videos"], numbers["instances"]) == (2, 3)
    assert numbers["classes"] == {"jump": 1, "run": 2}
    assert numbers["instance_seconds"]["50"] == 1.0
    assert report["proposal"]["protocol"].startswith("frames_per_second=10 window_clips=4 ")


def test_every_fault_of_annotations_is_found_at_once(tmp_path, capsys):
    database = {
        "a": entry((2, 2, "run"), (5, 9, "run"), (1, 2, "run"), (1, 2, "run")),
        "A": entry(),
        "c": {"subset": "training", "annotations": []},
        "f": entry((4, 3, "run")),
        "d": entry((1, "x", "run")),
        "../e": entry(),
    }
    code, report, found = examined(capsys, saved(tmp_path, database))
    assert code == 2
    assert found == {
        ("error", "empty segment", "a"),
        ("error", "empty segment", "f"),
        ("error", "segment outside", "a"),
        ("warning", "duplicate segment", "a"),
        ("warning", "ids alike", "A"),
        ("note", "duration unknown", ""),
        ("note", "no video opened", ""),
        ("error", "entry", "d"),
        ("error", "entry", "../e"),
    }
    assert report["files"]["opened"] == 0


def test_every_fault_of_videos_is_found_at_once(tmp_path, capsys):
    good = dict.fromkeys(("short", "rate", "late", "turned", "uneven", "cut", "gone", "ends", "unknown"))
    database = {name: entry((1, 2, "run")) for name in good}
    database["short"] = entry((1, 2, "run"), duration=60)
    database["rate"] = entry((1, 2, "run"), fps=30)
    database["ends"] = entry((1, 7.5, "run"), duration=7)
    database["uneven"] = entry((1, 2, "run"), duration=7.2)
    del database["unknown"]["duration"]
    for name in ("short", "rate", "ends", "unknown"):
        write(tmp_path / f"{name}.mp4")
    write(tmp_path / "late.mp4", milliseconds=range(1500, 7500, 100))
    uneven = [sum(50 + 200 * (k % 2) for k in range(n)) for n in range(48)]
    write(tmp_path / "uneven.mkv", frames=48, milliseconds=uneven)
    write(tmp_path / "turned.mp4", turn=90)
    damage(write(tmp_path / "cut.mp4"), 0.5, 1.0)
    code, report, found = examined(
        capsys, saved(tmp_path, database), "--data", tmp_path, "--cache", tmp_path / "cache"
    )
    assert code == 2
    assert found == {
        ("warning", "shorter than annotated", "short"),
        ("warning", "rate unlike annotated", "rate"),
        ("error", "instances after the end", "ends"),
        ("warning", "late first frame", "late"),
        ("warning", "variable rate", "uneven"),
        ("note", "turned", "turned"),
        ("error", "undecodable", "cut"),
        ("error", "missing", "gone"),
        ("note", "duration from video", ""),
    }
    assert sorted(report["unusable"]) == ["cut", "gone"]


def test_warnings_alone_end_in_one(tmp_path, capsys):
    write(tmp_path / "a.mp4")
    path = saved(tmp_path, {"a": entry((1, 2, "run"), duration=60)})
    code, _, found = examined(capsys, path, "--data", tmp_path, "--cache", tmp_path / "cache")
    assert (code, found) == (1, {("warning", "shorter than annotated", "a")})


def test_text_plot_and_missing_list(tmp_path, capsys):
    path = saved(tmp_path, {name: entry((1, 2, "run")) for name in "abcdefg"})
    write(tmp_path / "a.mp4")
    outputs = [tmp_path / "lengths.png", tmp_path / "report.json", tmp_path / "missing.txt"]
    options = ["--data", tmp_path, "--cache", tmp_path / "cache", "--plot", outputs[0], "--json", outputs[1]]
    assert main([*map(str, [path, *options, "--write-missing", outputs[2]])]) == 2
    text = capsys.readouterr().out
    assert "training: 7 videos (0 without instances), 7 instances of 1 classes" in text
    assert "error: missing (6)\n  b no file\n" in text
    assert "  and 1 more: --json lists all" in text
    assert outputs[0].read_bytes().startswith(b"\x89PNG")
    assert json.loads(outputs[1].read_text())["unusable"] == list("bcdefg")
    assert outputs[2].read_text().split() == list("bcdefg")


def test_subsets_in_any_script_are_plotted(tmp_path, capsys):
    path = saved(tmp_path, {"a": {**TESTED, "subset": "训练"}, "b": {**TESTED, "subset": "training"}})
    assert main([str(path), "--plot", str(tmp_path / "lengths.svg")]) == 0
    assert (tmp_path / "lengths.svg").read_bytes().startswith(b"<?xml")
    assert "Traceback" not in capsys.readouterr().err


def test_the_subsets_of_the_run_that_follows_are_checked(tmp_path, capsys):
    path = tmp_path / "own.json"
    database = {"a": {**TESTED, "subset": "Train"}, "b": {**TESTED, "subset": "val"}}
    path.write_text(json.dumps({"database": database}))
    assert main([str(path)]) == 2
    text = capsys.readouterr().out
    line = "own.json: no video is of subset 'training', the training_subset; there are Train (1 videos), val"
    assert line in text
    assert (
        '--protocol training_subset=Train (make: PROTOCOL="training_subset=Train") uses these instead' in text
    )
    assert "--protocol evaluation_subset=val" in text
    assert main([str(path), "--protocol", "training_subset=Train,evaluation_subset=val"]) == 0
    assert main([str(path), "--protocol", "evaluation=val"]) == 2
    assert "unknown field 'evaluation'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "annotations: a file is needed"),
        (["none.json"], "none.json: cannot be read"),
        (["{file}", "--data", "nowhere"], "--data: nowhere is no folder"),
        (["{file}", "--card", "thumos"], "known are"),
        (["{file}", "--card", "thumos14:9"], "known are thumos14:213"),
        (["{file}", "--card", "miniature"], "made on the spot"),
        (["{file}", "--workers", "0"], "--workers: got 0"),
        (["{file}", "--plot", "x.txt"], "--plot: got x.txt, allowed are"),
        (["{file}", "--json", "{file}/x.json"], "cannot be written"),
    ],
)
def test_wrong_options_are_one_line_and_two(tmp_path, capsys, options, message):
    file = saved(tmp_path, {"a": entry((1, 2, "run"))})
    assert main([option.format(file=file) for option in options]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err


@needs_shared
@pytest.mark.parametrize(
    ("file", "known", "counts"),
    [
        ("thumos14_actionformer.json", "thumos14:212", {"validation": (200, 3007), "test": (212, 3358)}),
        ("thumos14_afsd.json", "thumos14:210", {"validation": (200, 3007), "test": (210, 3311)}),
        ("multithumos.json", "multithumos:213", {"validation": (200, 18479), "test": (213, 20204)}),
    ],
)
def test_real_annotations_are_recognised_and_counted(capsys, file, known, counts):
    code, report, _ = examined(capsys, ANNOTATIONS / file)
    assert code == 0
    assert report["card"] == known
    shown = {name: (part["videos"], part["instances"]) for name, part in report["subsets"].items()}
    assert shown == counts


@needs_shared
def test_another_variant_than_asked_for_is_an_error(capsys):
    code, report, found = examined(capsys, ANNOTATIONS / "thumos14_afsd.json", "--card", "thumos14:211")
    assert (code, report["annotations"]["variants"]) == (2, ["thumos14:210"])
    assert ("error", "ground truth", "") in found


def test_files_that_hang_or_crash_are_findings(tmp_path, monkeypatch):
    paths = {name: write(tmp_path / f"{name}.mp4", frames=10) for name in ("hang", "crash", "good")}
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, os, signal, sys\nfor line in sys.stdin:\n"
        "    request = json.loads(line); name = os.path.basename(request['path'])\n"
        "    signal.setitimer(signal.ITIMER_REAL, request['seconds'])\n"
        "    while 'hang' in name: pass\n    if 'crash' in name: os.abort()\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0)\n    print(json.dumps({'frames': 10}), flush=True)\n"
    )
    monkeypatch.setattr(probing, "WORKER", (sys.executable, str(script)))
    cache = tmp_path / "cache.jsonl"
    done = []
    facts = probe_files(paths, cache, 1, Probing(seconds=0.5), progress=lambda: done.append(1))
    assert facts["hang"] == {"error": "reading it takes longer than 0.5 s"}
    assert facts["crash"]["error"].startswith("reading it crashes the decoder")
    assert facts["good"] == {"frames": 10}
    assert len(done) == 3
    assert [json.loads(line)[1] for line in cache.read_text().splitlines()] == [{"frames": 10}]


def test_errors_are_probed_again_and_what_is_known_is_not(tmp_path, monkeypatch):
    paths = {name: write(tmp_path / f"{name}.mp4", frames=10) for name in ("slow", "good", "cut")}
    cache = tmp_path / "cache.jsonl"
    facts = probe_files(paths, cache, 1)
    good, cut = (
        next(line for line in cache.read_text().splitlines() if f"{name}.mp4" in line)
        for name in ("good", "cut")
    )
    slow = json.dumps([probing._identity(paths["slow"], False) + "|None", {"error": "takes longer"}])
    cache.write_text(f"{slow}\n{good}\n{cut[:30]}")
    monkeypatch.setattr(probing, "WORKER", (sys.executable, "-c", "import sys; sys.exit(7)"))
    again = probe_files(paths, cache, 1)
    assert again["good"] == facts["good"]
    assert again["slow"]["error"].endswith("(exit code 7)")
    assert again["cut"]["error"].endswith("(exit code 7)")


def test_without_data_it_says_that_no_video_was_opened(tmp_path, capsys):
    path = saved(tmp_path, {"a": entry((1, 2, "run"))})
    assert main([str(path)]) == 0
    line = f"only the annotations were checked; a run without --data takes the videos in {tmp_path}\n"
    assert f"note: no video opened\n  {line}" in capsys.readouterr().out
    (tmp_path / "videos").mkdir()
    assert main([str(path)]) == 0
    assert f"takes the videos in {tmp_path / 'videos'}\n" in capsys.readouterr().out


def test_a_late_first_frame_says_what_to_subtract(tmp_path, capsys):
    write(tmp_path / "late.mp4", milliseconds=range(1500, 7500, 100))
    path = saved(tmp_path, {"late": entry((1, 2, "run"))})
    _, report, _ = examined(capsys, path, "--data", tmp_path, "--cache", tmp_path / "cache")
    [text] = [each["text"] for each in report["findings"]]
    assert text == (
        "the first frame is at 1.500 s, which is time 0 here; times annotated in a player that shows this "
        "time at the first frame are late by that: subtract it"
    )


def test_the_proposal_follows_the_lengths():
    short, long = propose([0.5] * 100), propose([120.0] * 100)
    assert (short.frames_per_second, long.frames_per_second) == (30.0, 5.0)
    assert short.window_seconds < 10 < 120 < long.window_seconds
    assert short.levels < long.levels
    assert long.regression_steps[0] == (0, 4)
    assert long.regression_steps[-2][1] >= 120 / 2 * 5 / 2 or long.levels == 8
    assert short.fitting == long.fitting == long.resolved == 1.0
    mixed = propose([1.0] * 90 + [30.0] * 10)
    assert mixed.fitting == 1.0
    assert propose([1.0], file_rate=12.0).frames_per_second <= 12
    with pytest.raises(InputError, match="no instance of positive length"):
        propose([0.0, float("inf")])


def test_the_proposal_is_a_protocol(tmp_path):
    from bench.config.overrides import override
    from bench.config.presets import default_protocol

    changes = dict(part.split("=") for part in propose([1.0, 5.0, 20.0]).protocol.split())
    assert override(default_protocol("vit-b"), changes).window_clips % 4 == 0


def test_help_is_quick_and_loads_no_torch():
    code = "import bench.doctor, sys; assert not {'torch', 'av', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_recipe_without_annotations_is_printed_with_the_card_s_numbers(tmp_path, capsys):
    assert main(["--recipe", "thumos14:adatad", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("recipe thumos14:adatad: AdaTAD: 768 frames at stride 4")
    assert "  60 epochs of a schedule of 100, warmup 5; the source trains 60" in lines
    assert "  200 videos: 100 steps per epoch, 6000 steps" in lines
    assert "  hours: no record has measured seconds per step of this recipe" in lines
    assert "differs from the source:" in lines
    assert any("optimizer.backbone.lr = 1e-5" in line for line in lines)
    assert main(["--recipe", "adatad", "--card", "hacs", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["steps"] is None  # the card has no numbers


def test_a_recipe_with_annotations_has_their_numbers(tmp_path, capsys):
    path = saved(
        tmp_path, {"a": entry((1, 2, "run"), duration=30.0), "b": entry((1, 5, "run"), duration=50.0)}
    )
    _, report, _ = examined(capsys, path, "--recipe", "activitynet13:adatad")
    recipe = report["recipe"]
    assert (recipe["videos"], recipe["steps_per_epoch"], recipe["steps"]) == (2, 1, 15)
    assert recipe["seconds_of_video"] == 15 * 16 * 40
    _, report, _ = examined(
        capsys, path, "--recipe", "thumos14:adatad", "--protocol", "training_subset=absent"
    )
    assert report["recipe"]["steps"] is None


def test_an_unknown_recipe_is_one_line_that_lists_the_known_ones(capsys):
    assert main(["--recipe", "adatta", "--card", "thumos14"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "got 'adatta', known are activitynet13:actionformer-features, activitynet13:adatad" in error
