"""``python -m bench.measure.probes``: probe a device, and write what was found to ``probes.json``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.io.exit_code import CommandParser, run_command


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    result = CommandParser(prog="python -m bench.measure.probes", description=__doc__)
    result.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    result.add_argument("--results", type=Path, required=True, help="folder of probes.json")
    return result


def probe_device(options: argparse.Namespace) -> int:
    """Run all probes; print a line on each, and return 1 if one has failed."""
    import torch

    from bench.measure.probes import run_probes
    from bench.measure.probes.attention import attention
    from bench.measure.probes.card import cublas_workspaces, matrix_rate, nvml
    from bench.measure.probes.training import lowered_weights, one_process_sharded, streamed_gradient
    from bench.measure.worker import end_with_parent
    from bench.records.environment import describe

    end_with_parent()
    device = torch.device(options.device)
    # The workspaces come first: only the first product of a process allocates them.
    everywhere = (matrix_rate, attention, streamed_gradient, lowered_weights, one_process_sharded)
    probes = (cublas_workspaces, nvml, *everywhere) if device.type == "cuda" else everywhere
    found = run_probes(
        {probe.__name__: probe for probe in probes},
        device,
        describe(device),
        options.results / "probes.json",
    )
    for name, entry in found["probes"].items():
        print(
            f"probe {name}: {entry['status']}, {entry['seconds']} s {entry['message'] or ''}", file=sys.stderr
        )
    return int(any(entry["status"] != "ok" for entry in found["probes"].values()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    return run_command(parser(), arguments, probe_device)


if __name__ == "__main__":
    sys.exit(main())
