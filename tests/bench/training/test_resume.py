"""A run that stops anywhere and is taken up again ends with the bits of one that did not stop."""

import dataclasses
import json
import math
import os
import pickle
import random
import re
import subprocess
import sys
import time
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_records import record as made_record

from bench.data.windows import TrainingSampler
from bench.io.errors import StoppedError
from bench.io.torch_files import check_torch_file
from bench.io.writing import remove_stale_temps, temp_path
from bench.models.random_state import random_values, restore_random
from bench.records.failure import facts_of, failure
from bench.records.record import was_killed, write_record
from bench.run.__main__ import main
from bench.run.pending import pending, remove_stale_files
from bench.training.checkpoints import resume as module
from bench.training.checkpoints.fingerprint import Fingerprint, fingerprint_of
from bench.training.checkpoints.resume import ResumeCheckpointer
from bench.training.history import TrainingHistory, from_dict, to_dict
from bench.training.loop import train
from bench.training.nonfinite import NonFiniteLossError
from bench.training.step import Trainer
from strategies import build_strategy
from strategies.base import Rule, Stage
from strategies.testing import CLASSES, TINY_PROTOCOL, tiny_detector, tiny_store

PROTOCOL = dataclasses.replace(TINY_PROTOCOL, steps=6, ema_decay=0.9)
OWNER = Fingerprint("tiny", str(torch.__version__), "code")
NARROW = {"embd_dim": 8, "head_dim": 8, "fpn_dim": 8}
CPU = torch.device("cpu")


class StopError(Exception):
    """Stands for the end of the process."""


def stop_after(steps):
    def progress(phase, done, total):
        if done == steps:
            raise StopError

    return progress


def go(strategy, kept=None, progress=lambda phase, done, total: None, protocol=PROTOCOL):
    """Train a tiny detector; return it and its log."""
    torch.set_num_threads(1)
    detector, fresh_head = tiny_detector(strategy, protocol)
    sampler = TrainingSampler(tiny_store(detector.backbone, protocol), protocol, CLASSES, 0)
    trainer = Trainer(detector, protocol, sampler, CPU)
    log = train(trainer, strategy.stages(), fresh_head, progress, kept)
    return detector, log


def keeper(folder, said=None, owner=OWNER, seconds=0.0):
    return ResumeCheckpointer(folder / "tiny.pt", owner, seconds, (said if said is not None else []).append)


def bits(detector):
    tensors = {**dict(detector.named_parameters()), **dict(detector.named_buffers())}
    return {name: value.detach().numpy().tobytes() for name, value in tensors.items()}


def assert_same(found, expected):
    (detector, log), (other, other_log) = found, expected
    assert bits(detector) == bits(other)
    for field in ("losses", "memory", "trainable_parameters", "schedule"):
        assert getattr(log, field) == getattr(other_log, field), field


@pytest.fixture(scope="module")
def unbroken():
    """Return what an unbroken run of a strategy leaves, each made once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = go(build_strategy(name))
        return made[name]

    return of


@pytest.mark.parametrize(
    ("name", "steps"),
    [("head-only", 4), ("full-finetune", 3), ("losa", 1), ("losa", 5), ("lofi", 6), ("lofi-added", 7)],
)
def test_resumed_is_bitwise_the_unbroken_run(name, steps, unbroken, tmp_path):
    strategy, said = build_strategy(name), []
    with pytest.raises(StopError):
        go(strategy, keeper(tmp_path), stop_after(steps))
    found = go(strategy, keeper(tmp_path, said))
    assert said == [f"unfinished/tiny.pt: resumed after step {steps}"]
    assert found[1].resumed == (steps,)
    assert_same(found, unbroken(name))
    assert not list(tmp_path.glob(".*"))


def test_asked_to_stop_it_keeps_the_step_that_was_being_done(unbroken, tmp_path):
    strategy, asked = build_strategy("losa"), iter([False, False, True])
    kept = ResumeCheckpointer(tmp_path / "tiny.pt", OWNER, 1e6, [].append, stopping=lambda: next(asked))
    with pytest.raises(StoppedError, match="after step 3, kept up to step 3"):
        go(strategy, kept)
    assert kept.written_steps == [3]  # the interval alone would have written none
    found = go(strategy, keeper(tmp_path))
    assert found[1].resumed == (3,)
    assert_same(found, unbroken("losa"))
    never = ResumeCheckpointer(tmp_path / "never.pt", OWNER, math.inf, [].append, stopping=lambda: True)
    with pytest.raises(StoppedError, match="after step 1, nothing kept") as caught:
        go(strategy, never)
    assert not never.path.exists()
    assert facts_of(caught.value) == {"signal": "SIGTERM"}  # which makes the same command do it again


def test_stopped_after_every_step_is_bitwise_the_unbroken_run(unbroken, tmp_path):
    strategy = build_strategy("lofi")
    for steps in range(1, PROTOCOL.steps + 1):
        with pytest.raises(StopError):
            go(strategy, keeper(tmp_path), stop_after(steps))
    found = go(strategy, keeper(tmp_path))
    assert found[1].resumed == tuple(range(1, PROTOCOL.steps + 1))
    assert_same(found, unbroken("lofi"))


def test_buffers_averages_and_moments_go_on(tmp_path):
    """Without each of them the end is another: the test above would then say nothing."""
    strategy = build_strategy("full-finetune")
    expected = bits(go(strategy)[0])
    with pytest.raises(StopError):
        go(strategy, keeper(tmp_path), stop_after(4))
    whole = (tmp_path / "tiny.pt").read_bytes()
    for part in ("optimizer", "average", "buffers"):
        (tmp_path / "tiny.pt").write_bytes(whole)
        values = torch.load(tmp_path / "tiny.pt", weights_only=True)
        if part == "optimizer":
            values[part] = {}
        elif part == "average":
            values[part]["updates"] = 0
        else:
            values[part] = {name: value * 3 for name, value in values[part].items()}
        torch.save(values, tmp_path / "tiny.pt")
        assert bits(go(strategy, keeper(tmp_path))[0]) != expected, part


def test_the_random_states_of_all_three_go_through_a_file(tmp_path):
    def draw():
        return random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist(), np.random.randn()

    random.gauss(0, 1)
    np.random.randn()
    torch.save(random_values(CPU), tmp_path / "random.pt")
    expected = draw()
    assert draw() != expected
    restore_random(torch.load(tmp_path / "random.pt", weights_only=True), CPU)
    assert draw() == expected


class Harmful:
    def __reduce__(self):
        return os.system, ("exit 1",)


def spoil(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[len(content) * 2 // 3 :]
    elif how == "empty":
        content.clear()
    elif how == "text":
        content[:] = b"not a checkpoint" * 40
    elif how == "one bit":
        with zipfile.ZipFile(path) as archive:  # most of so small a file is padding between tensors
            payload = archive.read(max(archive.infolist(), key=lambda entry: entry.file_size))
        content[content.index(payload) + len(payload) // 2] ^= 1
    elif how == "code":
        content[:] = pickle.dumps(Harmful())
    elif how == "zipped code":
        torch.save({"owner": Harmful()}, path)
        return
    elif how == "other content":
        torch.save({"owner": dataclasses.asdict(OWNER)}, path)
        return
    path.write_bytes(content)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a checkpoint after step 2 of 6 of head-only."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.raises(StopError):
        go(build_strategy("head-only"), keeper(folder), stop_after(2))
    return (folder / "tiny.pt").read_bytes()


def assert_ignored(folder, words, owner=OWNER, protocol=PROTOCOL):
    """Read the checkpoint: nothing comes back, one line says why, and no weight is touched."""
    said, strategy = [], build_strategy("head-only")
    detector, _ = tiny_detector(strategy, protocol)
    before = bits(detector)
    assert keeper(folder, said, owner).read(detector, strategy.stages()) is None
    assert bits(detector) == before
    [line] = said
    assert "\n" not in line
    assert re.fullmatch(rf"unfinished/tiny.pt: {words}.*; the run starts over", line)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut", "File is not a zip file"),
        ("empty", "File is not a zip file"),
        ("text", "File is not a zip file"),
        ("one bit", "damaged in archive/"),
        ("code", "File is not a zip file"),
        ("other content", "'stage'"),
        ("zipped code", "holds more than tensors"),
    ],
)
def test_a_damaged_checkpoint_is_one_line_and_ignored(how, words, written, tmp_path):
    (tmp_path / "tiny.pt").write_bytes(written)
    spoil(tmp_path / "tiny.pt", how)
    assert_ignored(tmp_path, words)


def test_any_bit_of_the_pickle_is_a_damage_and_no_other_fault(written, tmp_path):
    path = tmp_path / "tiny.pt"
    path.write_bytes(written)
    with zipfile.ZipFile(path) as archive:
        payload = archive.read("archive/data.pkl")
    first = written.index(payload)
    for place in range(first, first + len(payload), len(payload) // 300):
        path.write_bytes(written[:place] + bytes([written[place] ^ 1]) + written[place + 1 :])
        with pytest.raises(ValueError, match=r"damaged in archive/data\.pkl"):
            check_torch_file(path)


def test_a_run_with_a_damaged_checkpoint_starts_over(written, unbroken, tmp_path):
    (tmp_path / "tiny.pt").write_bytes(written[:-1000])
    found = go(build_strategy("head-only"), keeper(tmp_path))
    assert found[1].resumed == ()
    assert_same(found, unbroken("head-only"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"run": "other"}, "is of run tiny, not other"),
        ({"torch": "9.9"}, "is of torch .*, not 9.9"),
        ({"code": "new"}, "is of code code, not new"),
        ({"schema": 2}, "is of schema 1, not 2"),
    ],
)
def test_a_checkpoint_of_something_else_is_one_line_and_ignored(change, words, written, tmp_path):
    (tmp_path / "tiny.pt").write_bytes(written)
    assert_ignored(tmp_path, words, dataclasses.replace(OWNER, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": 2}, "parameters: does not match the trained tensors"),
        (NARROW, r"parameters: head\S+ is \("),
    ],
)
def test_a_checkpoint_of_other_shapes_is_one_line_and_ignored(change, words, written, tmp_path):
    (tmp_path / "tiny.pt").write_bytes(written)
    other = dataclasses.replace(PROTOCOL, head=dataclasses.replace(PROTOCOL.head, **change))
    assert_ignored(tmp_path, words, protocol=other)


def test_the_code_belongs_to_the_owner():
    first = fingerprint_of("run", build_strategy("head-only"))
    assert first == fingerprint_of("run", build_strategy("head-only"))
    assert first.code != fingerprint_of("run", Diverging()).code  # a file of its own


def test_what_training_does_not_change_is_not_written(written, tmp_path):
    (tmp_path / "tiny.pt").write_bytes(written)
    values = torch.load(tmp_path / "tiny.pt", weights_only=True)
    assert values["parameters"]
    assert all(name.startswith("head.") for name in values["parameters"])
    assert "head.loss_normalizer" in values["buffers"]


def test_a_course_keeps_all_its_bits(unbroken):
    _, log = unbroken("lofi")
    history = TrainingHistory(
        list(log.losses), list(log.memory), {"a": 0.1}, {"a": 3}, list(log.schedule), [2]
    )
    history.measured.append((log.schedule[0][2], "first cached"))
    history.times.extend([0.1, 1 / 3])
    assert from_dict(to_dict(history)) == history


def test_a_folder_that_takes_nothing_is_told_once_and_costs_nothing(unbroken, tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    found = go(build_strategy("head-only"), keeper(tmp_path / "file", said))
    assert len(said) == 1
    assert "not written" in said[0]
    assert_same(found, unbroken("head-only"))


def test_writing_stays_below_its_share_of_the_time(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    real = torch.save

    def slow(values, path):
        clock[0] += 3.0
        real(values, path)

    monkeypatch.setattr(module.torch, "save", slow)
    kept = keeper(tmp_path, seconds=60.0)

    def progress(phase, done, total):
        clock[0] += 10.0

    go(build_strategy("head-only"), kept, progress, dataclasses.replace(PROTOCOL, steps=38))
    first, second, third = kept.written_steps
    assert first == 7  # 60 seconds have passed
    assert (second - first, third - second) == (15, 15)  # 3 s are 2 % of 150 s
    assert kept.written_seconds == 9.0


@dataclasses.dataclass(frozen=True)
class Diverging:
    """A head whose learning rate leaves the finite numbers."""

    name = "diverging"

    def adapt(self, backbone):
        return backbone

    def stages(self):
        return (Stage("calm", (Rule(r"head\..*", 1.0),), 0.5), Stage("wild", (Rule(r"head\..*", 1e30),), 0.5))


def test_divergence_tells_where_it_was_and_keeps_the_last_good_checkpoint(tmp_path):
    kept = keeper(tmp_path)
    with pytest.raises(NonFiniteLossError) as caught:
        go(Diverging(), kept)
    facts = caught.value.facts
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["stage"] == "wild"
    assert facts["step"] in (4, 5)
    assert facts["learning_rate"] > 1e20
    assert facts["gradient_norm_before"]
    assert not all(isinstance(value, float) and math.isfinite(value) for value in facts["loss"].values())
    assert facts["checkpoint"] == {"file": f"{tmp_path.name}/tiny.pt", "step": kept.kept_step}
    values = torch.load(tmp_path / "tiny.pt", weights_only=True)
    assert len(values["history"]["losses"]) == kept.kept_step
    assert all(value.isfinite().all() for value in values["parameters"].values())
    status, message = failure(caught.value)
    assert status == "nan"
    assert "\n" not in message
    for words in ("stage wild", f"step {facts['step']}", "learning rate", "gradient norm", "tiny.pt"):
        assert words in message


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path, monkeypatch):
    strategy, kept = build_strategy("head-only"), keeper(tmp_path)
    detector, _ = tiny_detector(strategy)
    with torch.no_grad():
        next(detector.head.parameters())[0] = math.nan
    kept.after_step(detector, strategy.stages(), 0, None, TrainingHistory(), CPU)
    assert not list(tmp_path.iterdir())
    assert module._finite(torch.tensor([1.0, -3e38]))
    assert module._finite(torch.empty(0))
    assert not module._finite(torch.tensor([1.0, math.nan]))
    assert not module._finite(torch.tensor([-math.inf]))


def test_drafts_of_processes_that_are_gone_are_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = temp_path(tmp_path / "records" / "a.json")
    mine.parent.mkdir()
    left = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{gone.pid}."))
    elsewhere = mine.with_name(f".a.json.other-machine.{gone.pid}.draft")
    forgotten = mine.with_name(f".b.json.other-machine.{gone.pid}.draft")
    foreign = mine.with_name(".mine.draft")
    for path in (mine, left, elsewhere, forgotten, foreign):
        path.write_text("")
    os.utime(forgotten, (time.time() - 90_000,) * 2)
    assert remove_stale_temps(tmp_path) == 2
    assert sorted(mine.parent.iterdir()) == sorted([mine, elsewhere, foreign])


def record_of(identifier, status="error", **fields):
    return {**made_record("losa", status=status), "id": identifier, **fields}


@pytest.mark.parametrize(
    ("fields", "again"),
    [
        ({"failure": {"signal": "SIGKILL"}}, True),
        ({"failure": {"signal": "SIGSEGV"}}, False),
        ({"failure": None}, False),
        ({}, False),
        ({"status": "nan", "failure": {"step": 3}}, False),
        ({"status": "cancelled"}, True),
    ],
)
def test_a_killed_run_is_done_again_by_the_same_command(fields, again, tmp_path):
    run = SimpleNamespace(id="a")
    write_record(tmp_path, record_of("a", **fields))
    assert pending([run], tmp_path, "cancelled") == ([run] if again else [])
    assert was_killed(record_of("a", **fields)) == (again and "failure" in fields)


def test_checkpoints_of_finished_runs_are_cleared_away(tmp_path):
    (tmp_path / "unfinished").mkdir()
    write_record(tmp_path / "records", record_of("done", status="ok"))
    write_record(tmp_path / "records", record_of("redone", status="ok"))
    write_record(tmp_path / "records", record_of("nan", status="nan"))
    for name in ("done", "redone", "nan", "new"):
        (tmp_path / "unfinished" / f"{name}.pt").write_text("")
    remove_stale_files(tmp_path, [], {"redone"})
    assert sorted(path.stem for path in (tmp_path / "unfinished").iterdir()) == ["nan", "new", "redone"]


@pytest.mark.parametrize("value", ["-1", "nan"])
def test_a_wrong_interval_is_one_line(value, tmp_path, capsys):
    assert main(["--checkpoint-seconds", value, "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert f"--checkpoint-seconds: got {value}, allowed is 0 or more" in error
