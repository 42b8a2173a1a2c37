"""A strategy that cannot run with the model or the backward has an empty row, and the others run."""

import json

import pytest
from conftest import run_all_here
from tiny import TINY

from bench.plan.__main__ import main as plan
from bench.run.__main__ import main as run
from bench.status import main as status

pytestmark = pytest.mark.slow
PROTOCOL = [word for change in TINY for word in ("--protocol", change)]
REASON = (
    "clips of a window mix in it, so that backward=streamed is refused; allowed are plain and checkpointed"
)


@pytest.mark.parametrize("words", [("--protocol", "backward=streamed"), ("--fit", "2")])
def test_mixing_clips_are_left_out_of_a_streamed_comparison(tiny_dataset, tmp_path, capsys, words):
    chosen = ["--dataset", str(tiny_dataset / "annotations.json"), "--data", str(tiny_dataset / "videos")]
    chosen += ["--weights", "random", "--device", "cpu", *PROTOCOL, *words, "--results", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bench.run.scheduler.run_matrix", run_all_here)
        assert run([*chosen, "--strategies", "adatad,head-only,last-k"]) == 0
    assert capsys.readouterr().err.count(f"bench.run: adatad is left out: {REASON}\n") == 1
    records = [json.loads(path.read_text()) for path in (tmp_path / "records").glob("*.json")]
    found = {each["strategy"]["name"]: each["status"] for each in records}
    assert found == {"adatad": "unsupported", "head-only": "ok", "last-k": "ok"}
    assert status(["--results", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert "0 failed, 1 left out, 2 done" in listed
    assert run([*chosen, "--strategies", "adatad"]) == 2
    assert REASON in capsys.readouterr().err


def test_the_plan_leaves_out_what_cannot_be_streamed(capfd):
    words = ["--model", "vit-t", "--device", "cpu", "--backward", "streamed", *PROTOCOL, "--json", "-"]
    assert plan([*words, "--strategy", "adatad,last-k"]) == 0
    printed = capfd.readouterr()
    assert [row["strategy"] for row in json.loads(printed.out)] == ["last-k"]
    assert f"adatad is left out: {REASON}" in printed.err
