"""The papers' variants: each once a seed, and each a run of its own."""

from bench.papers import VARIANTS, specifications
from bench.run.specification import resolve_runs
from datasets.annotations.dataset import Dataset
from strategies import build_strategy


def test_every_variant_is_a_run_of_its_own(tmp_path):
    specs = specifications(["--results", str(tmp_path), "--device", "cpu"], [0, 1])
    assert len(specs) == 2 * len(VARIANTS)
    assert [spec.seed for spec in specs] == [0] * len(VARIANTS) + [1] * len(VARIANTS)
    nothing = Dataset("miniature", "v", (), (), "a" * 64, tmp_path, tmp_path)
    assert len({run.id for run in resolve_runs(specs, nothing)}) == len(specs)


def test_what_the_papers_vary_is_there():
    settings = [(v.strategy, build_strategy(v.strategy, v.settings)) for v in VARIANTS]
    lofi = {strategy.variant for name, strategy in settings if name == "lofi"}
    assert lofi == {"s", "t", "st", "short-cyclic", "long-cyclic"}
    losa = [strategy for name, strategy in settings if name == "losa"]
    assert {(s.short_range, s.long_range) for s in losa} == {(True, True), (True, False), (False, True)}
    assert {s.gated for s in losa} == {True, False}
    assert len({len(s.taps) for s in losa}) == 3
