"""The output of ``bench.pretrain`` is known before anything is generated or trained."""

import pytest

from bench.models import shipped_weights
from bench.pretrain import main, output_path, parser


def path_of(*words):
    return output_path(parser().parse_args(words))


def test_shipped_seeds_have_their_checkpoint():
    assert path_of() == shipped_weights("source", "miniature")
    assert path_of("--dataset", "synthetic", "--seed", "1") == shipped_weights("source-1", "synthetic")
    assert str(path_of("--seed", "9", "--output", "here.safetensors")) == "here.safetensors"


@pytest.mark.parametrize(
    ("words", "seeds"), [(("--dataset", "synthetic", "--seed", "2"), "0 and 1"), (("--seed", "1"), "0")]
)
def test_other_seeds_need_an_output(words, seeds, tmp_path, capsys):
    assert main([*words, "--cache", str(tmp_path)]) == 2
    assert f"--output: needed for seed {words[-1]}" in (error := capsys.readouterr().err)
    assert f"seed {seeds} only" in error
    assert not list(tmp_path.iterdir())
