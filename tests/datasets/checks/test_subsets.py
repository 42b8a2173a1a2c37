"""What is known of the two subsets before training."""

import pytest

from datasets.annotations.dataset import Instance, Video
from datasets.checks.subsets import check_subsets


def videos(**labels: str) -> list[Video]:
    """Return a video for each subset, with an instance of each of its letters."""
    return [
        Video(name, name, 9.0, tuple(Instance(1.0, 2.0, label) for label in text))
        for name, text in labels.items()
    ]


def found(*subsets: str, classified: bool = True, **labels: str) -> list[tuple[str, str, str]]:
    training, evaluation = subsets or ("training", "testing")
    return [
        (each.level, each.kind, each.text)
        for each in check_subsets("f.json", videos(**labels), training, evaluation, classified=classified)
    ]


def test_usable_subsets_have_no_finding() -> None:
    assert found(training="ab", testing="b", validation="") == []


@pytest.mark.parametrize(
    ("labels", "kind", "text"),
    [
        (
            {"training": "", "testing": "a"},
            "no instance",
            "the 1 videos of training, the training_subset, have",
        ),
        (
            {"training": "a", "testing": ""},
            "no instance",
            "the 1 videos of testing, the evaluation_subset, have",
        ),
        (
            {"training": "a", "testing": "b"},
            "no common class",
            "no class is in both training, the training_sub",
        ),
    ],
)
def test_what_cannot_be_trained_or_evaluated_is_an_error(
    labels: dict[str, str], kind: str, text: str
) -> None:
    [(level, own, line)] = found(**labels)
    assert (level, own) == ("error", kind)
    assert line.startswith(f"f.json: {text}")


def test_a_head_that_does_not_classify_needs_no_common_class() -> None:
    assert found(training="a", testing="b", classified=False) == []


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("train", "training_subset"),
        ("Training", "training_subset"),
        ("trainig", "training_subset"),
        ("TRAIN", "training_subset"),
        ("test", "evaluation_subset"),
        ("Test", "evaluation_subset"),
        ("val", "evaluation_subset"),
        ("Validation", "evaluation_subset"),
        ("odd one", "evaluation_subset"),
    ],
)
def test_a_missing_subset_comes_with_the_option_that_uses_another(name: str, field: str) -> None:
    other = {"training_subset": "testing", "evaluation_subset": "training"}[field]
    [(level, kind, line)] = found(**{name: "a", other: "a"})
    assert (level, kind) == ("error", "subset")
    quoted = f"'{field}={name}'" if " " in name else f"{field}={name}"
    assert f"there are {', '.join(sorted(f'{each} (1 videos)' for each in (name, other)))}" in line
    assert f"; --protocol {quoted}" in line


def test_both_subsets_may_be_missing() -> None:
    lines = [text for _, _, text in found(train="a", val="a", other="b")]
    assert ["=train " in lines[0], "=val " in lines[1], len(lines)] == [True, True, 2]


def test_no_subset_is_proposed_for_both() -> None:
    first, second = (text for _, _, text in found(val="a", odd="a"))
    assert "--protocol training_subset=odd " in first
    assert "--protocol evaluation_subset=val " in second
    assert second.endswith(" uses these instead")


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("only", "none is of 'training', the training_subset and 'testing', the evaluation_subset; a run"),
        ("training", "none is of 'testing', the evaluation_subset; a run needs two subsets"),
        ("testing", "none is of 'training', the training_subset; a run needs two subsets"),
    ],
)
def test_a_file_of_one_subset_needs_a_second(name: str, lacking: str) -> None:
    [(level, kind, line)] = found(**{name: "a"})
    assert (level, kind) == ("error", "subset")
    assert line.startswith(f"f.json: all 1 videos are of subset '{name}', {lacking}")
    assert "in each video's field subset (JSON) or in the column subset (tables)" in line
    assert "--protocol" not in line


def test_one_subset_for_both_is_a_warning() -> None:
    [(level, kind, line)] = found("a", "a", a="x", b="x")
    assert (level, kind) == ("warning", "same subset")
    assert line == (
        "f.json: the videos of 'a' are trained and evaluated on: the result says nothing about other videos"
    )


def labelled(training: list[str], testing: list[str]) -> list[tuple[str, str, str]]:
    made = [
        Video(name, name, 9.0, tuple(Instance(1.0, 2.0, label) for label in labels))
        for name, labels in (("training", training), ("testing", testing), ("tuning", ["WAVE", "new"]))
    ]
    findings = check_subsets("f.json", made, "training", "testing")
    return [(each.level, each.kind, each.text) for each in findings]


def test_labels_that_differ_in_case_or_spaces_are_a_warning() -> None:
    assert labelled(["wave", "run"], ["run", "wave"]) == []
    [(level, kind, line)] = labelled(["wave", "wave", "Wave", "wave "], ["wave"])
    assert (level, kind) == ("warning", "labels alike")
    assert "'Wave' (1 instances) and 'wave' (3 instances) and 'wave ' (1 instances) are different" in line


def test_classes_that_are_not_trained_are_a_warning() -> None:
    [(level, kind, line)] = labelled(["a"], ["a", "g", "f", "e", "d", "c", "b"])
    assert (level, kind) == ("warning", "class not trained")
    assert "6 classes of testing, the evaluation_subset, have no instance in training" in line
    assert line.endswith(": 'b', 'c', 'd', 'e', 'f', ...; none will be detected")


def test_other_subsets_are_no_warning() -> None:
    assert found(training="a", testing="a", tuning="a", validation="a") == []
    assert [kind for _, kind, _ in found(training="a", testing="a", test="a")] == ["subsets alike"]


def test_a_subset_that_is_spelled_alike_is_a_warning() -> None:
    [(level, kind, line)] = found(training="a", trainig="b", testing="a", validation="a")
    assert (level, kind) == ("warning", "subsets alike")
    assert line.startswith(
        "f.json: 1 videos of subset 'trainig' are not used, only those of 'training'; --protocol"
    )
