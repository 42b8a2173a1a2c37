"""``python -m bench.tune``: choose hyper-parameters on the tuning videos, with equal trials per strategy.

Each strategy has six trials: three values of its own rate, without and with a learnable scale of the head's
input. They are recorded like any run, under ``results/local/tuning``, cost what a run costs, and resume. With
``--write`` the best settings of each strategy become a file for ``bench.run --chosen``; of equal trials the
default is taken. Test videos are not used.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.config.arguments import pairs
from bench.io.errors import InputError
from bench.io.exit_code import RUNS_KEPT, CommandParser, run_command
from bench.io.tables import comma_separated, markdown
from bench.io.writing import write_atomically
from bench.records.tuning import Trial, best, choose, source_of, write_choices
from bench.run import options as run_options
from datasets.cards.cards import tuning_subset
from strategies import STRATEGIES_HELP, strategy_names

if TYPE_CHECKING:
    from bench.records.record import Record
    from bench.run.specification import RunSpecification

SEED = 100
"""A seed that no reported run uses."""
RATES: dict[str, tuple[str, str, str, str]] = {
    "head-only": ("lr", "1", "2", "0.5"),
    "full-finetune": ("backbone_lr", "0.5", "1", "0.25"),
    "lofi": ("backbone_lr", "0.5", "1", "0.25"),
    "lofi-added": ("backbone_lr", "0.5", "1", "0.25"),
    "losa": ("adapter_lr", "1", "2", "0.5"),
    "mlp-control": ("block_lr", "1", "2", "0.5"),
    "temporal-control": ("block_lr", "1", "2", "0.5"),
    "wide-head": ("lr", "1", "2", "0.5"),
    "last-layer-cells": ("adapter_lr", "1", "2", "0.5"),
    "adatad": ("adapter_lr", "1", "2", "0.5"),
    "adatad-beside": ("adapter_lr", "1", "2", "0.5"),
    "lora": ("update_lr", "1", "2", "0.5"),
    "last-k": ("backbone_lr", "0.5", "1", "0.25"),
    "norm-tuning": ("norm_lr", "1", "3", "0.3"),
    "bitfit": ("bias_lr", "1", "3", "0.3"),
    "etad": ("backbone_lr", "0.5", "1", "0.25"),
    "side-tuning": ("side_lr", "1", "2", "0.5"),
    "vpt": ("prompt_lr", "1", "10", "0.1"),
    "token-pruning": ("adapter_lr", "1", "2", "0.5"),
}
"""A strategy's own rate: the field, its default, and a larger and a smaller value that are tried."""
INPUTS: tuple[dict[str, str], ...] = ({}, {"input_norm": "scale"})
TRIALS: dict[str, tuple[dict[str, str], ...]] = {
    name: tuple(
        {**rate, **given}
        for given, rate in itertools.product(INPUTS, ({}, {field: larger}, {field: smaller}))
    )
    for name, (field, _, larger, smaller) in RATES.items()
}
"""The fields of each trial that differ from the strategy's defaults; the first trial has the defaults."""
EDGE = (
    "At the edge: the chosen rate is the smallest or largest that was tried, so that a better one may lie "
    "outside."
)
DEFAULT_FOLDER = run_options.DEFAULT_RESULTS / "tuning"
FIXED = ("evaluation_subset", "training_subset")
"""Protocol fields that follow from the data set: trials are evaluated on its tuning videos only."""
PASSED = (
    "model",
    "dataset",
    "data",
    "annotations",
    "recipe",
    "weights",
    "device",
    "cache",
    "workers",
    "seeds",
)
"""Options that are those of ``bench.run``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = CommandParser(prog="python -m bench.tune", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=DEFAULT_FOLDER, help=f"default: {DEFAULT_FOLDER}, for bench.verify"
    )
    parser.add_argument("--strategies", default="default", metavar="NAMES", help=STRATEGIES_HELP)
    parser.add_argument("--protocol", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the best settings for --chosen")
    for name in PASSED:
        parser.add_argument(f"--{name}", help="as of bench.run")
    parser.set_defaults(seeds=str(SEED))

    def action(options: argparse.Namespace) -> int:
        from bench.run.matrix import bench

        names = strategy_names(options.strategies)
        if without := [name for name in names if name not in TRIALS]:
            raise InputError(f"--strategies: '{without[0]}' has no trials, allowed are {', '.join(TRIALS)}")
        words = words_of(options)
        specs = trials(words, names)
        code = bench(specs, run_options.parser().parse_args(words))
        results = recorded(specs, names, options.results / "records")
        write_table(options.results / "tables", results)
        if options.write:
            write_choices(options.write, choose(specs[0].model, specs[0].dataset, results))
            print(f"chosen settings: {options.write}")
        return code

    return run_command(parser, arguments, action, RUNS_KEPT)


def words_of(options: argparse.Namespace) -> list[str]:
    """Return the command line of ``bench.run`` that all trials share."""
    if wrong := [name for name in pairs(options.protocol, "--protocol") if name in FIXED]:
        raise InputError(f"--protocol: '{wrong[0]}' is set by bench.tune, allowed are the other fields")
    given = {name: getattr(options, name) for name in PASSED}
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
    subset = tuning_subset(options.dataset or run_options.parser().get_default("dataset"))
    words += ["--results", str(options.results), "--protocol", f"evaluation_subset={subset}"]
    return [*words, *(word for change in options.protocol for word in ("--protocol", change))]


def trials(words: Sequence[str], names: Sequence[str]) -> list[RunSpecification]:
    """Return the runs of all trials: the first of every strategy, then the second, and so on."""
    specs = []
    for number in range(len(next(iter(TRIALS.values())))):
        settings = [
            word
            for name in names
            for field, value in TRIALS[name][number].items()
            for word in ("--set", f"{name}.{field}={value}")
        ]
        chosen = ["--strategies", ",".join(names)]
        specs += run_options.specifications(run_options.parser().parse_args([*words, *chosen, *settings]))
    return specs


def recorded(
    specs: Sequence[RunSpecification], names: Sequence[str], records: Path
) -> dict[str, list[Trial]]:
    """Return the trials of each strategy with their finished runs in the folder.

    They are of all seeds, of the data set in this variant, and of these weights or others of their group.
    Strategies that the model does not support are left out.
    """
    from bench.records.record import read_folder
    from bench.run.matrix import load_dataset
    from bench.run.record_builder import weights_group, weights_name
    from bench.run.specification import resolve_runs

    dataset = load_dataset(specs[0])
    runs = {(run.spec.strategy, str(run.spec.strategy_settings)): run for run in resolve_runs(specs, dataset)}
    first = next(iter(runs.values()))
    weights = {
        "group": weights_group(first),
        "sha256": first.weights_sha256,
        "name": weights_name(first),
    }
    data = {"name": dataset.name, "variant": dataset.variant, "annotation_sha256": dataset.sha256}
    wanted = _places({"model": first.spec.model, "weights": weights, "dataset": data})
    known = [record for record in read_folder(records).records if _places(record) & wanted]
    unsupported = {each["strategy"]["name"] for each in known if each["status"] == "unsupported"}
    found: dict[str, list[Trial]] = {name: [] for name in names if name not in unsupported}
    for name, tried in found.items():
        for settings in TRIALS[name]:
            run = runs[name, str(settings)]
            entry, digest = json.loads(json.dumps(run.strategy_entry)), run.protocol.digest()
            mine = [
                record
                for record in known
                if record["status"] == "ok"
                and (record["strategy"], record["protocol"]["digest"]) == (entry, digest)
            ]
            tried.append(Trial(name, settings, tuple(mine)))
    return found


def _places(record: Record) -> set[tuple[str, ...]]:
    """Return model, weights and data of a run, with the weights by their group and by their own digest."""
    dataset = record["dataset"]
    data = (dataset["name"], dataset["variant"], dataset["annotation_sha256"])
    sources = {source_of(record), source_of({"weights": {**record["weights"], "group": None}})}
    return {(record["model"], source, *data) for source in sources}


def at_the_edge(trial: Trial) -> str:
    """Return the rate of a trial if it is the smallest or largest that was tried, else an empty text.

    The best rate may then lie outside of what was tried.
    """
    field, default, _, _ = RATES[trial.strategy]
    tried = {float(each.get(field, default)) for each in TRIALS[trial.strategy]}
    value = trial.settings.get(field, default)
    return f"{field}={value}" if float(value) in (min(tried), max(tried)) else ""


def write_table(folder: Path, found: Mapping[str, Sequence[Trial]]) -> None:
    """Write ``trials.csv`` and ``trials.md``: every trial with its mAP on tuning videos."""
    header = ["strategy", "settings", "n", "average mAP on tuning videos (%)", "chosen"]
    lines = []
    for name, tried in found.items():
        for trial in tried:
            settings = ", ".join(f"{field}={value}" for field, value in trial.settings.items())
            average = "" if trial.average is None else f"{100 * trial.average:.2f}"
            chosen = "yes" if average and trial is best(tried) else ""
            if chosen and (edge := at_the_edge(trial)):
                chosen = f"yes, {edge} at the edge"
            lines.append([name, settings or "default", str(len(trial.records)), average, chosen])
    write_atomically(folder / "trials.csv", comma_separated(header, lines).encode())
    text = f"# Tuning trials\n\n{EDGE}\n\n{markdown(header, lines, text_columns=2)}\n"
    write_atomically(folder / "trials.md", text.encode())


if __name__ == "__main__":
    sys.exit(main())
