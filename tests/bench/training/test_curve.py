"""Evaluations during training change no bit of a run, and are resumed with it."""

import copy
import dataclasses
import json

import pytest
import torch
from conftest import records_of, run_here
from test_resume import OWNER, StopError, assert_same, keeper, stop_after

from bench.data.windows import TrainingSampler
from bench.training.history import CurvePoint, EncodingTime, StepTime, TrainingHistory, from_dict, to_dict
from bench.training.inference import CurveEvaluation
from bench.training.loop import train
from bench.training.step import Trainer
from strategies import NAMED_GROUPS, build_strategy
from strategies.base import FULL, Fidelity
from strategies.testing import CLASSES, TINY_PROTOCOL, tiny_detector, tiny_store

CPU = torch.device("cpu")
PROTOCOL = dataclasses.replace(
    TINY_PROTOCOL,
    steps=6,
    ema_decay=0.9,
    head=dataclasses.replace(TINY_PROTOCOL.head, droppath=0.3, input_dropout=0.3),
)


def go(name, fractions=(), kept=None, progress=lambda phase, done, total: None, seen=None):
    """Train; the evaluation draws random numbers, and spoils the detector that it was given."""
    torch.set_num_threads(1)

    def evaluate(detector):
        value = float(sum(parameter.detach().double().sum() for parameter in detector.head.parameters()))
        torch.rand(7)
        detector.eval()
        with torch.no_grad():
            for parameter in detector.parameters():
                parameter.zero_()
        if seen is not None:
            seen.append(detector)
        return abs(value) % 1

    strategy = build_strategy(name)
    detector, fresh_head = tiny_detector(strategy, PROTOCOL)
    sampler = TrainingSampler(tiny_store(detector.backbone, PROTOCOL), PROTOCOL, CLASSES, 0)
    trainer = Trainer(detector, PROTOCOL, sampler, CPU)
    evaluation = CurveEvaluation(fractions, evaluate, CPU) if fractions else None
    return detector, train(trainer, strategy.stages(), fresh_head, progress, kept, evaluation)


@pytest.mark.parametrize("name", ["head-only", "losa", "lofi", "full-finetune"])
def test_a_run_has_the_same_bits_with_and_without_evaluations(name):
    found = go(name, (0.5, 1.0))
    assert_same(found, go(name))
    assert [point.step for point in found[1].curve] == [3, 6]


def test_the_averaged_weights_are_evaluated():
    _, log = go("head-only", (1.0,))
    detector, _ = go("head-only")
    average = float(sum(parameter.detach().double().sum() for parameter in detector.head.parameters()))
    assert log.curve[0].map_average == pytest.approx(abs(average) % 1)


@pytest.mark.parametrize("name", sorted({each for group in NAMED_GROUPS.values() for each in group}))
def test_a_copy_of_a_strategy_s_detector_is_independent(name):
    detector, _ = tiny_detector(build_strategy(name))
    detector.eval()

    def features(of):
        clips = torch.linspace(0, 1, 2 * 3 * 3 * 8 * 32 * 32).reshape(2, 3, 3, 8, 32, 32)
        with torch.no_grad():
            found = of.backbone(clips)
            mask = torch.ones(2, found.shape[2], dtype=torch.bool)
            return torch.cat([logits for logits, _, _ in of.head(found, mask)], dim=1)

    before, copied = features(detector), copy.deepcopy(detector)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.5)
    assert torch.equal(features(copied), before)
    assert not torch.equal(features(detector), before)


def test_stages_are_named_and_times_grow():
    _, log = go("lofi", (0.01, 0.5, 1.0))
    assert [(point.step, point.stage) for point in log.curve] == [
        (1, log.schedule[0][1]),
        (3, log.curve[1].stage),
        (6, log.schedule[-1][1]),
    ]
    assert 0 < log.curve[0].seconds < log.curve[1].seconds < log.curve[2].seconds
    assert all(point.processor_seconds > 0 and point.evaluation_seconds > 0 for point in log.curve)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_a_resumed_run_has_the_whole_curve_once(steps, tmp_path):
    with pytest.raises(StopError):
        go("losa", (0.5, 1.0), keeper(tmp_path, owner=OWNER), stop_after(steps))
    found = go("losa", (0.5, 1.0), keeper(tmp_path, owner=OWNER))
    unbroken = go("losa", (0.5, 1.0))
    assert_same(found, unbroken)
    points = [(point.step, point.stage, point.map_average) for point in found[1].curve]
    assert points == [(point.step, point.stage, point.map_average) for point in unbroken[1].curve]


def test_a_history_with_a_curve_is_written_and_read():
    history = from_dict(to_dict(from_dict(to_dict(_history()))))
    assert history == _history()


def _history():
    return TrainingHistory(
        curve=[CurvePoint(3, "head", 1.5, 2.5, 0.25, 0.5)],
        dropped=[4],
        steps=[StepTime(0.5, 0.75, True)],
        encoding=[EncodingTime("head", 1.5, 2.5, 8, 4)],
    )


def test_a_history_of_another_version_is_refused_by_the_name_of_a_field():
    older = to_dict(_history())
    del older["steps"]
    with pytest.raises(ValueError, match="history: field steps is missing, as in another version"):
        from_dict(older)


def test_steps_that_are_not_steady_count_as_the_median_of_the_others():
    low = Fidelity(0.5, 1.0)
    history = TrainingHistory(schedule=[(0, "joint", FULL), (3, "joint", low), (5, "head", FULL)])
    times = [(100, False), (1, True), (3, True), (90, False), (7, True), (80, False), (70, False)]
    history.steps.extend(StepTime(each, 2 * each, steady) for each, steady in times)
    assert history.spent(1) == (2, 4)
    assert history.spent(4) == (2 + 1 + 3 + 7, 2 * (2 + 1 + 3 + 7))
    assert history.spent(7)[0] == 2 + 1 + 3 + 7 + 7 + 80 + 70  # nothing else is known of the last stage


def test_only_steps_that_find_their_encodings_in_memory_are_steady():
    detector, fresh_head = tiny_detector(build_strategy("head-only"), PROTOCOL)
    protocol = dataclasses.replace(PROTOCOL, steps=40)
    sampler = TrainingSampler(tiny_store(detector.backbone, protocol), protocol, CLASSES, 0)
    seen = []

    class Noted(TrainingHistory):
        def add_step(self, started, *, steady):
            seen.append(steady)
            super().add_step(started, steady=steady)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.training.loop.TrainingHistory", Noted)
        stages = build_strategy("head-only").stages()
        log = train(Trainer(detector, protocol, sampler, CPU), stages, fresh_head)
    assert not any(seen[:4])  # under the meter
    assert 20 < seen.count(True) < 36
    [encoding] = log.encoding
    assert 0 < encoding.measured <= encoding.passes
    assert encoding.processor_seconds > 0
    assert not go("full-finetune")[1].encoding


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_an_evaluation_without_memory_is_dropped_with_a_line(error):
    def evaluate(detector):
        torch.rand(7)
        raise error

    said = []
    evaluation = CurveEvaluation((0.5,), evaluate, CPU, said.append)
    found = train_with(evaluation)
    assert_same(found, go("head-only"))
    assert (found[1].curve, found[1].dropped) == ((), (3,))
    assert said == ["evaluation after step 3: not enough memory; training goes on without it"]
    with pytest.raises(type(error)):  # other processes would wait for this one
        train_with(dataclasses.replace(evaluation, alone=False))


def test_other_errors_of_an_evaluation_are_raised():
    def evaluate(detector):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        train_with(CurveEvaluation((0.5,), evaluate, CPU))


def train_with(evaluation):
    torch.set_num_threads(1)
    detector, fresh_head = tiny_detector(build_strategy("head-only"), PROTOCOL)
    sampler = TrainingSampler(tiny_store(detector.backbone, PROTOCOL), PROTOCOL, CLASSES, 0)
    trainer = Trainer(detector, PROTOCOL, sampler, CPU)
    return detector, train(trainer, build_strategy("head-only").stages(), fresh_head, evaluation=evaluation)


@pytest.fixture(scope="module")
def with_tuning(tiny_dataset, tmp_path_factory):
    """The tiny data set with one of its videos as a tuning video."""
    folder = tmp_path_factory.mktemp("with-tuning")
    content = json.loads((tiny_dataset / "annotations.json").read_text())
    content["database"]["clip_3"]["subset"] = "tuning"
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "videos").symlink_to(tiny_dataset / "videos")
    return folder


@pytest.mark.slow
def test_a_record_has_the_curve_and_else_nothing_changes(with_tuning, run_tiny, tmp_path):
    evaluated = run_tiny(with_tuning, tmp_path / "a", "--set", "head-only.input_norm=scale")
    plain = run_tiny(
        with_tuning, tmp_path / "b", "--set", "head-only.input_norm=scale", "--evaluate-at", "none"
    )
    assert plain["training"]["tuning"] is None
    points = evaluated["training"]["tuning"]["points"]
    assert [point["step"] for point in points] == [1, 2, 4]
    for field in ("id", "metrics", "memory", "strategy"):
        assert evaluated[field] == plain[field]
    assert evaluated["strategy"]["input_norm"] == "scale"
    predicted = evaluated["memory"]["predicted_peak_bytes"]
    assert predicted == pytest.approx(evaluated["memory"]["peak_allocated_bytes"], abs=100)  # few instances
    tuned = run_tiny(
        with_tuning,
        tmp_path / "c",
        "--set",
        "head-only.input_norm=scale",
        "--protocol",
        "evaluation_subset=tuning",
    )
    assert tuned["metrics"]["map_average"] == pytest.approx(points[-1]["map_average"], abs=1e-12)


@pytest.mark.slow
def test_fractions_without_tuning_videos_are_refused(tiny_dataset, run_tiny, tmp_path):
    process = run_tiny(tiny_dataset, tmp_path, "--evaluate-at", "0.5", read=False)
    assert process.returncode == 2
    assert "--evaluate-at: the data set has no videos of a subset 'tuning'; allowed is none" in process.stderr
    process = run_tiny(tiny_dataset, tmp_path, "--evaluate-at", "2", read=False)
    assert "--evaluate-at: got '2', allowed are auto, none, and numbers in (0, 1]" in process.stderr


@pytest.fixture(scope="module")
def run_tiny():
    def run(dataset, results, *options, read=True):
        process = run_here(dataset, results, *options)
        if not read:
            return process
        assert process.returncode == 0, process.stderr
        return records_of(results)["head-only"]

    return run
