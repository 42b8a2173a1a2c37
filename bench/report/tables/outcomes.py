"""Why rows have no result: runs that failed, and strategies that a model does not support."""

from __future__ import annotations

from bench.report.grouping import Comparison, Row

UNSUPPORTED = "unsupported"
"""The status of a run whose model lacks what the strategy changes."""


def failures(row: Row) -> str:
    """Return the reasons of failed runs, one clause per reason, with its seeds."""
    reasons: dict[str, list[str]] = {}
    for record in row.failed:
        if record["status"] == UNSUPPORTED:
            continue
        status, message = record["status"], record["message"]
        reason = f"{status} in {record['phase']} ({message})"
        if record["phase"] == "forecast" and status == "out-of-memory" and message:
            # The exception's name adds nothing to the message.
            reason = str(message).removeprefix("PredictedOutOfMemoryError: ")
        reasons.setdefault(reason, []).append(str(record["seed"]))
    return "; ".join(f"seed{'s' * (len(s) > 1)} {', '.join(s)}: {reason}" for reason, s in reasons.items())


def outcome_lines(comparison: Comparison) -> list[str]:
    """Return a line for each row with failed runs, and for each strategy that was left out."""
    reasons = ((row.label, failures(row)) for row in comparison.rows)
    lines = [f"Failed: {label}: {reason}" for label, reason in reasons if reason]
    refused = (record for row in comparison.rows for record in row.failed if record["status"] == UNSUPPORTED)
    return [
        *lines,
        *dict.fromkeys(f"Left out: {each['strategy']['name']}: {each['message']}" for each in refused),
    ]
