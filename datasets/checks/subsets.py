"""Check the two subsets that a run uses, before anything is trained."""

import difflib
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from bench.io.text import format_value
from datasets.annotations.dataset import Video
from datasets.checks.checking import Finding, Level

ALIKE = 0.75
"""Least similarity (difflib) of a subset's name to the wanted one to be taken for it; `tuning` has 0.71."""
USUAL = {
    "training_subset": ("train", "training", "trn"),
    "evaluation_subset": ("test", "testing", "val", "validation", "valid", "eval", "evaluation", "dev"),
}
"""Usual names by protocol field, in order of preference."""
NAMED = 5


def check_subsets(
    file: str, videos: Sequence[Video], training: str, evaluation: str, *, classified: bool = True
) -> list[Finding]:
    """Return an error for each reason why a run on two subsets of an annotation file would be useless.

    They are: a subset that does not exist, one without an instance, and no class in common, which is no
    fault if the head does not classify. Warnings name other subsets that are spelled like one of the two, one
    subset that is used for both, labels that are spelled alike, and classes that are evaluated but not
    trained.
    """
    counts = Counter(video.subset for video in videos)
    wanted = {"training_subset": training, "evaluation_subset": evaluation}
    findings: list[Finding] = []

    def add(level: Level, kind: str, text: str) -> None:
        findings.append(Finding(level, kind, "", f"{file}: {text}"))

    missing = {field: name for field, name in wanted.items() if name not in counts}
    if missing and len(counts) == 1:
        add("error", "subset", _one_subset(counts, missing))
        return findings
    others = [other for other in counts if other not in wanted.values()]
    better = _better(missing, others)
    for field, name in wanted.items():
        if field in missing:
            listed = ", ".join(f"{other} ({count} videos)" for other, count in sorted(counts.items())[:10])
            text = f"no video is of subset {name!r}, the {field}; there are {listed or 'none'}"
            add("error", "subset", text + (f"; {_use(field, better[field])}" if field in better else ""))
            continue
        if not any(video.instances for video in videos if video.subset == name):
            add("error", "no instance", f"the {counts[name]} videos of {name}, the {field}, have no instance")
        for other in others:
            if _spelled_alike(other.casefold(), name.casefold()):
                text = f"{counts[other]} videos of subset {other!r} are not used, only those of {name!r}"
                add("warning", "subsets alike", f"{text}; {_use(field, other)}")
    if training == evaluation and not missing:
        text = f"the videos of {training!r} are trained and evaluated on"
        add("warning", "same subset", f"{text}: the result says nothing about other videos")
    if classified:
        for level, kind, text in _check_labels(videos, training, evaluation):
            add(level, kind, text)
    return findings


def _one_subset(counts: Mapping[str, int], missing: Mapping[str, str]) -> str:
    """Return the message for an annotation file whose videos are all of one subset."""
    [(name, count)] = counts.items()
    lacking = " and ".join(f"{wanted!r}, the {field}" for field, wanted in missing.items())
    return (
        f"all {count} videos are of subset {name!r}, none is of {lacking}; a run needs two subsets, one to "
        "train and one to evaluate: name them in each video's field subset (JSON) or in the column subset "
        "(tables)"
    )


def _check_labels(
    videos: Sequence[Video], training: str, evaluation: str
) -> Iterator[tuple[Level, str, str]]:
    """Yield level, kind and text of findings on the classes of the two subsets."""
    trained, evaluated = (
        Counter(each.label for video in videos if video.subset == name for each in video.instances)
        for name in (training, evaluation)
    )
    if trained and evaluated and not trained.keys() & evaluated.keys():
        text = f"no class is in both {training}, the training_subset, and {evaluation}, the evaluation_subset"
        yield "error", "no common class", f"{text}; only a run with --classifier accepts that"
    elif trained and (unknown := sorted(evaluated.keys() - trained.keys())):
        shown = ", ".join(map(format_value, unknown[:NAMED])) + (", ..." if len(unknown) > NAMED else "")
        text = (
            f"{len(unknown)} classes of {evaluation}, the evaluation_subset, have no instance in {training}"
        )
        yield "warning", "class not trained", f"{text}, the training_subset: {shown}; none will be detected"
    alike: dict[str, list[str]] = {}
    for label in sorted(trained.keys() | evaluated.keys()):
        alike.setdefault(" ".join(label.split()).casefold(), []).append(label)
    for names in alike.values():
        if len(names) > 1:
            counted = " and ".join(
                f"{format_value(name)} ({trained[name] + evaluated[name]} instances)" for name in names
            )
            yield "warning", "labels alike", f"{counted} are different classes; they differ in case or spaces"


def _better(missing: Mapping[str, str], others: Sequence[str]) -> dict[str, str]:
    """Return the subset to use for each field whose subset is missing, if there is one; none for both."""
    left, found = list(others), {}
    for choose in (_alike, lambda field, name, names: next(iter(names), None)):
        for field, name in missing.items():
            if field not in found and (better := choose(field, name, left)):
                found[field] = better
                left.remove(better)
    return found


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
    return f"--protocol {shlex.quote(change)}{make} uses these instead"
