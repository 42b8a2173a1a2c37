"""Several processes train one run: the same batches, losses and detections as one process has."""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys

import pytest
import torch
from distributed_cases import CASES, DROPPING, PROTOCOL
from tiny import ROOT, bench_command, records_of

from bench.config.arguments import check_cards, check_division, check_processes
from bench.config.overrides import override
from bench.config.presets import MINIATURE
from bench.io.errors import InputError
from bench.models.backbones.vit import VideoViT
from bench.models.random_state import BatchSlice, batch_slice_context, uniform
from bench.plan.__main__ import main as plan
from bench.run.__main__ import main
from bench.training.distributed.processes import ALONE, World, buckets, check_draws
from strategies import build_strategy
from strategies.testing import CLASSES, tiny_detector

RESUMED = ("checkpointed", "lofi")
SHARDED = ("plain", "checkpointed", "streamed", "lofi", "losa")


def launch(mode, cases):
    """Return what two processes say of each case."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(ROOT / "tests" / "bench" / "training" / "distributed_cases.py"), mode, *cases]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {each["case"]: each["ranks"] for each in lines}


def launched_once(made_once, mode, cases):
    """Return what two processes say of each case and of those that are resumed, asked once a test run."""

    def make(folder):
        said = launch(mode, [*cases, *(f"{folder}/{case}" for case in RESUMED)])
        (folder / "said.json").write_text(json.dumps(said))

    return json.loads((made_once(mode, make) / "said.json").read_text())


@pytest.fixture(scope="module")
def replicated(made_once):
    return launched_once(made_once, "replicated", CASES)


@pytest.fixture(scope="module")
def sharded(made_once):
    return launched_once(made_once, "sharded", SHARDED)


def assert_same_training(ranks):
    assert len(ranks) == 2
    for found in ranks:
        assert found["steps"] >= 6
        assert found["losses"] < 1e-6  # relative, of every step
        assert found["weights"] < 1e-5
        assert found["detections"] > 50
        assert found["detections_apart"] < 1e-4
        assert found["videos"] == [f"video{number}" for number in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_does(case, replicated):
    assert_same_training(replicated[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", SHARDED)
def test_spread_over_two_processes_a_model_trains_as_in_one(case, sharded):
    assert_same_training(sharded[case])


@pytest.mark.slow
def test_the_requirement_holds_over_twenty_steps(replicated, sharded):
    for found in (replicated["plain"], replicated["streamed"], replicated["losa"], sharded["streamed"]):
        assert found[0]["steps"] == 20


def forecast_peaks(case, world):
    from bench.plan.forecast import CPU, TraceSettings, forecast

    torch.set_num_threads(1)
    name, changes = CASES[case]
    protocol, strategy = dataclasses.replace(PROTOCOL, **changes), build_strategy(name)

    def build():
        return tiny_detector(strategy, protocol, lambda: VideoViT(DROPPING))

    settings = TraceSettings(len(CLASSES), 3, CPU, world=world, passes_run=None)
    found = forecast("tiny", strategy, protocol, settings, build)
    return {f"{each.stage} {each.fidelity} {each.step}": each.peak.peak_bytes for each in found.stages}


@pytest.mark.slow
def test_the_forecast_knows_a_process_of_several(replicated, sharded):
    """A forecast's window holds three instances, a real one may hold fewer: some bytes of labels."""
    asked = [("plain", False), ("streamed", False), ("plain", True), ("streamed", True), ("lofi", True)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:  # joining a group changes the process
        for case, spread in asked:
            found = (sharded if spread else replicated)[case][0]
            peaks = pool.submit(forecast_peaks, case, World(0, 2, spread, has_peers=False)).result()
            # Six steps see one fidelity of LoFi's three.
            assert found["kinds"] == [kind for kind in peaks if kind in found["kinds"]]
            for kind, real in zip(found["kinds"], found["peaks"], strict=True):
                forecast = peaks[kind]
                assert 0 <= forecast - real <= 256, (case, spread)


@pytest.mark.slow
def test_processes_and_spreading_need_less_memory(replicated, sharded):
    for case in ("plain", "checkpointed"):
        assert replicated[case][0]["peaks"] < replicated[case][0]["peaks_alone"]
        assert sharded[case][0]["peaks"] < replicated[case][0]["peaks"]


@pytest.mark.slow
@pytest.mark.parametrize("case", RESUMED)
def test_processes_that_stopped_go_on_with_the_same_bits(case, replicated, sharded):
    for found in (replicated, sharded):
        ranks = found[f"resumed {case}"]
        assert [rank["equal"] for rank in ranks] == [True, True]
        for rank in ranks:
            assert rank["said"] == [f"unfinished/{case}.pt: resumed after step 3"]


def bench(dataset, results, *options):
    return subprocess.run(
        bench_command(dataset, results, *options, strategies="full-finetune"),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.slow
def test_a_bench_of_two_processes_is_a_row_like_one_of_one(tiny_bench, tiny_dataset, tmp_path):
    done = bench(tiny_dataset, tmp_path, "--processes", "2", "--sharded")
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (records_of(results)["full-finetune"] for results in (tiny_bench[0], tmp_path))
    assert one["parallel"] == {"processes": 1, "sharded": False}
    assert two["parallel"] == {"processes": 2, "sharded": True}
    assert one["id"] != two["id"]
    assert two["environment"]["device"] == f"2 x {one['environment']['device']}"
    assert two["protocol"]["digest"] == one["protocol"]["digest"]
    assert two["metrics"]["map_average"] == pytest.approx(one["metrics"]["map_average"], abs=1e-3)
    assert two["training"]["loss"] == one["training"]["loss"]
    assert "ranks" not in one["memory"]
    peaks = [each["peak_allocated_bytes"] for each in two["memory"]["ranks"]]
    assert two["memory"]["peak_allocated_bytes"] == max(peaks) < one["memory"]["peak_allocated_bytes"]
    assert two["memory"]["predicted_peak_bytes"] == pytest.approx(max(peaks), rel=1e-3)


@pytest.mark.slow
def test_a_failing_process_is_the_row_s_reason(tiny_dataset, tmp_path):
    done = bench(tiny_dataset, tmp_path, "--processes", "2", "--protocol", "learning_rate=1e30")
    assert done.returncode == 1
    record = records_of(tmp_path)["full-finetune"]
    assert record["status"] == "nan"
    assert "of 2)" in record["message"]


def test_draws_of_parts_are_those_of_the_whole():
    torch.manual_seed(1)
    whole = uniform(12, 2)
    after = torch.rand(1)
    for before, count in ((0, 2), (2, 3), (5, 1)):
        torch.manual_seed(1)
        with batch_slice_context(BatchSlice(before, count, 6 - before - count)):
            part = uniform(2 * count, 2)  # two clips a window
        assert torch.equal(part, whole[2 * before : 2 * (before + count)])
        assert torch.equal(torch.rand(1), after)


@pytest.mark.parametrize("count", range(1, 9))
def test_shares_cover_a_batch_once(count):
    for size in range(1, count + 1):
        parts = [World(rank, size).part(range(count)) for rank in range(size)]
        assert [item for part in parts for item in part] == list(range(count))
        assert len(parts[0]) == max(map(len, parts))
        assert min(map(len, parts)) >= 1


def test_buckets_keep_order_type_and_size():
    sizes = [
        (10, torch.float32),
        (20, torch.float32),
        (5, torch.bfloat16),
        (300, torch.bfloat16),
        (1, torch.float32),
    ]
    tensors = [torch.zeros(count, dtype=dtype) for count, dtype in sizes]
    found = list(buckets(tensors, most_bytes=100))
    assert [len(bucket) for bucket in found] == [1, 1, 1, 1, 1]
    found = list(buckets(tensors, most_bytes=120))
    assert [[tensor.numel() for tensor in bucket] for bucket in found] == [[10, 20], [5], [300], [1]]


def test_alone_nobody_is_asked():
    assert ALONE.all_reduce_sums([1.5, 2.5]) == [1.5, 2.5]
    assert ALONE.gather("x") == ["x"]
    assert ALONE.broadcast_from_rank0("x") == "x"
    assert ALONE.is_main


def test_layers_that_draw_by_themselves_are_refused():
    check_draws(torch.nn.Sequential(torch.nn.Dropout(0.0), torch.nn.Dropout(0.5).eval()))
    with pytest.raises(InputError, match=r"--processes: 1 \(Dropout\) draws independently in each process"):
        check_draws(torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5)))


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (lambda: check_processes(0, False), "--processes: got 0, allowed is 1 to 1024"),
        (lambda: check_processes(1, True), "--sharded: allowed only with --processes of 2 or more"),
        (lambda: check_cards(2, "cuda:1"), "--device: got 'cuda:1', allowed with --processes are"),
        (lambda: check_division(MINIATURE, 3), "--processes: got 3, allowed is at most the batch_size of 2"),
        (
            lambda: check_division(dataclasses.replace(MINIATURE, batch_size=3), 2, True),
            "--sharded: the batch_size is 3, allowed are multiples of 2",
        ),
    ],
)
def test_what_cannot_be_shared_is_one_line(action, reason):
    with pytest.raises(InputError, match=reason.replace("(", r"\(")):
        action()


def test_gradients_released_in_backward_cannot_be_shared():
    protocol = override(MINIATURE, {"lean.release_gradients": "true", "gradient_clip": "1e30"})
    check_division(protocol, 1)
    with pytest.raises(InputError, match="only with one process"):
        check_division(protocol, 2)
    with pytest.raises(InputError, match="all windows at once"):
        override(protocol, {"micro_batch_windows": "1"})
    with pytest.raises(InputError, match="'micro_batch_windows' is 0, allowed is 1 to 4096"):
        override(MINIATURE, {"micro_batch_windows": "0"})


def test_bad_processes_end_with_code_2(tmp_path, capsys, monkeypatch):
    # Nothing is forecast, so that no process is needed.
    monkeypatch.setattr("bench.plan.__main__.forecast_pool", concurrent.futures.ThreadPoolExecutor)
    assert main(["--processes", "3", "--results", str(tmp_path)]) == 2
    assert plan(["--model", "vit-t", "--strategy", "head-only", "--processes", "9"]) == 2
    assert capsys.readouterr().err.count("allowed is at most the batch_size of 2") == 2


def test_the_page_gives_the_forecasts_of_vit_g():
    rows = json.loads((ROOT / "results" / "forecasts" / "processes.json").read_text())
    text = " ".join((ROOT / "docs" / "parallel.md").read_text().split())
    peaks = {(row["processes"], row["sharded"]): f"{row['predicted_peak_bytes'] / 1e9:.1f}" for row in rows}
    assert peaks[1, False] == peaks[2, False]
    assert (
        f"{peaks[1, False]} GB alone or on two, {peaks[2, True]} GB sharded over two, "
        f"{peaks[4, True]} over four, {peaks[8, True]} over eight"
    ) in text
    assert {(row["model"], row["batch_size"], row["frames"], row["image_size"]) for row in rows} == {
        ("vit-g", 8, 768, 224)
    }
    assert {(row["backward"], row["strategy"]) for row in rows} == {("streamed", "full-finetune")}


def test_the_shipped_run_of_two_processes_is_the_one_of_one():
    (two,) = (json.loads(path.read_text()) for path in (ROOT / "results" / "processes" / "records").iterdir())
    records = (
        json.loads(path.read_text()) for path in (ROOT / "results" / "miniature-1" / "records").iterdir()
    )
    same = ("model", "strategy", "dataset", "seed")
    (one,) = (r for r in records if all(r[field] == two[field] for field in same))
    assert two["parallel"] == {"processes": 2, "sharded": False}
    assert one["protocol"]["digest"] == two["protocol"]["digest"]
    averages = [100 * record["metrics"]["map_average"] for record in (two, one)]
    peaks = [record["memory"]["peak_allocated_bytes"] for record in (two, one)]
    assert abs(two["memory"]["predicted_peak_bytes"] - peaks[0]) < 100
    text = " ".join((ROOT / "docs" / "parallel.md").read_text().split())
    assert f"({averages[0]:.2f} and {averages[1]:.2f}: files of version 1, which may differ)" in text
    assert f"{peaks[0] / 1e6:.1f} MB at the peak of each process instead of {peaks[1] / 1e6:.1f}" in text
