"""Check the two subsets that a run uses, before anything is trained."""

import difflib
import shlex
from collections import Counter
from collections.abc import Sequence

from datasets.annotations.dataset import Video
from datasets.checks.checking import Finding, Level

ALIKE = 0.75
"""Least similarity (difflib) of a subset's name to the wanted one to be taken for it; `tuning` has 0.71."""
USUAL = {
    "training_subset": ("train", "training", "trn"),
    "evaluation_subset": ("test", "testing", "val", "validation", "valid", "eval", "evaluation", "dev"),
}
"""Usual names by protocol field, in order of preference."""


def check_subsets(
    file: str, videos: Sequence[Video], training: str, evaluation: str, *, classified: bool = True
) -> list[Finding]:
    """Return an error for each reason why a run on two subsets of an annotation file would be useless.

    They are: a subset that does not exist, one without an instance, and no class in common, which is no
    fault if the head does not classify. A warning names other subsets that are spelled like one of the two.
    """
    counts = Counter(video.subset for video in videos)
    wanted = {"training_subset": training, "evaluation_subset": evaluation}
    labels = {
        name: {each.label for video in videos if video.subset == name for each in video.instances}
        for name in (training, evaluation)
    }
    findings = []

    def add(level: Level, kind: str, text: str) -> None:
        findings.append(Finding(level, kind, "", f"{file}: {text}"))

    for field, name in wanted.items():
        others = [other for other in counts if other not in wanted.values()]
        if name not in counts:
            listed = ", ".join(f"{other} ({count} videos)" for other, count in sorted(counts.items())[:10])
            better = _alike(field, name, others) or next(iter(others), None)
            text = f"no video is of subset {name!r}, the {field}; there are {listed or 'none'}"
            add("error", "subset", text + (f"; {_use(field, better)}" if better else ""))
            continue
        if not labels[name]:
            add("error", "no instance", f"the {counts[name]} videos of {name}, the {field}, have no instance")
        for other in others:
            if _spelled_alike(other.casefold(), name.casefold()):
                text = f"{counts[other]} videos of subset {other!r} are not used, only those of {name!r}"
                add("warning", "subsets alike", f"{text}; {_use(field, other)}")
    if classified and all(labels.values()) and not labels[training] & labels[evaluation]:
        text = f"no class is in both {training}, the training_subset, and {evaluation}, the evaluation_subset"
        add("error", "no common class", text)
    return findings


def _spelled_alike(name: str, other: str) -> bool:
    beginning = name.startswith(other) or other.startswith(name)
    return beginning or difflib.SequenceMatcher(None, name, other).ratio() >= ALIKE


def _alike(field: str, wanted: str, names: Sequence[str]) -> str | None:
    """Return the subset that a missing one was probably meant to be: by case, spelling, or usual name."""
    folded = {name.strip().casefold(): name for name in reversed(names)}
    if near := difflib.get_close_matches(wanted.casefold(), folded, 1, ALIKE):
        return folded[near[0]]
    return next((folded[name] for name in USUAL[field] if name in folded), None)


def _use(field: str, name: str) -> str:
    """Return the option that selects a subset, for the command and for make."""
    change = f"{field}={name}"
    usual = name.replace("_", "").replace("-", "").replace(".", "").isalnum()
    make = f' (make: PROTOCOL="{change}")' if usual else ""
    return f"--protocol {shlex.quote(change)}{make} uses them"
