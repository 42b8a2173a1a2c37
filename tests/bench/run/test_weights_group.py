"""Checkpoints are one row only if they share the group's name and what they were trained on."""

import json
from types import SimpleNamespace

import pytest

from bench.io.errors import InputError
from bench.models import shipped_weights
from bench.run.record_builder import weights_group

NOTE = {
    "source_group": "vit-t, own",
    "source_labels_sha256": "a" * 64,
    "source_pictures_sha256": "b" * 64,
}


def group_of(folder, **changes):
    note = {name: value for name, value in {**NOTE, **changes}.items() if value is not None}
    (folder / "source.json").write_text(json.dumps(note))
    return weights_group(SimpleNamespace(weights=folder / "source.safetensors"))


def test_the_group_has_the_digest_of_labels_and_pictures(tmp_path):
    own = group_of(tmp_path)
    assert own.startswith("vit-t, own ")
    assert group_of(tmp_path, seed=7) == own
    assert group_of(tmp_path, source_group=None) is None
    others = {group_of(tmp_path, **{name: "c" * 64}) for name in NOTE if name != "source_group"}
    assert len({own, *others}) == 3


@pytest.mark.parametrize("value", [None, "a" * 63, 3])
def test_a_group_without_digests_is_refused(tmp_path, value):
    with pytest.raises(InputError, match=r"field 'source_pictures_sha256' is .*, allowed beside"):
        group_of(tmp_path, source_pictures_sha256=value)


def test_the_shipped_source_weights_are_one_group():
    paths = [shipped_weights(f"source-{seed}", "synthetic") for seed in (0, 1)]
    (group,) = {weights_group(SimpleNamespace(weights=path)) for path in paths}
    assert group.startswith("vit-t, synthetic ")
