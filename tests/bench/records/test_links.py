"""Symbolic links in results and caches: files are replaced, folders refused, and nothing else changes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from made_records import folder, record

from bench.detection.submission import write_submission
from bench.features.disk_cache import DiskCache, PassKey
from bench.features.encode import ClipPasses, HostEncodings
from bench.io.errors import InputError
from bench.io.writing import temp_path, write_atomically
from bench.records.locks import locked
from bench.records.record import write_record
from bench.report import build
from bench.run.matrix import check_writable
from datasets.checks.probing import probe_files
from strategies import build_strategy
from strategies.testing import TINY_PROTOCOL, tiny_detector


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file elsewhere, which must stay as it is."""
    path = tmp_path / "elsewhere" / "victim"
    path.parent.mkdir()
    path.write_text("precious")
    yield path
    assert path.read_text() == "precious"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_is_replaced_by_what_is_written(tmp_path: Path, victim: Path) -> None:
    own: dict[str, Any] = record()
    results = folder(tmp_path / "results", own)
    links = [results / "records" / f"{own['id']}.json", results / "index.html"]
    links += [results / "tables" / f"comparison.{suffix}" for suffix in ("md", "csv", "tex")]
    for suffix in ("png", "pdf"):
        links.append(results / "figures" / f"mini_vit-t_source_dddddd_map-memory.{suffix}")
    for link in links:
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(victim)
    write_record(results / "records", own)
    assert set(links[1:]) <= set(build(results).files)
    write_submission(results / "x.json", {})
    for link in links:
        assert not link.is_symlink()
        assert link.stat().st_size > 100


def test_a_link_in_a_drafts_place_is_not_followed(tmp_path: Path, victim: Path) -> None:
    path = tmp_path / "x.json"
    temp_path(path).symlink_to(victim)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()
    assert not temp_path(path).exists()


@pytest.mark.parametrize("name", ["tables", "figures", "locks"])
@pytest.mark.parametrize("target", ["../elsewhere", "circle"])
def test_a_folder_that_leads_out_of_results_is_refused(
    tmp_path: Path, victim: Path, name: str, target: str
) -> None:
    results = folder(tmp_path / "results", record())
    (results / name).symlink_to(target if target != "circle" else name)
    with pytest.raises(InputError, match=f"{name}: is a symbolic link that leads out of"):
        build(results)
    with pytest.raises(InputError, match="leads out of"):
        check_writable(results)


def test_links_within_results_and_to_results_are_allowed(tmp_path: Path) -> None:
    results = folder(tmp_path / "results", record())
    (results / "pictures").mkdir()
    (results / "figures").symlink_to("pictures")
    (tmp_path / "other").symlink_to(results)
    assert build(tmp_path / "other").files
    check_writable(tmp_path / "other")


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "report.lock").symlink_to(victim)
    with pytest.raises(InputError, match="is a symbolic link"), locked(tmp_path, "report"):
        pass


def test_a_cache_of_facts_that_is_a_link_is_refused(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "facts.jsonl").symlink_to(victim)
    with pytest.raises(InputError, match="the cache cannot be written"):
        probe_files({}, tmp_path / "facts.jsonl")


@pytest.mark.parametrize("linked", ["encodings", "own"])
def test_encodings_are_not_written_where_a_link_leads(tmp_path: Path, victim: Path, linked: str) -> None:
    said: list[str] = []
    backbone = tiny_detector(build_strategy("head-only"), TINY_PROTOCOL)[0].backbone.eval()
    cache = DiskCache(tmp_path / "cache", backbone, ClipPasses(4), said.append, worth=float("inf"))
    place = cache.folder if linked == "own" else cache.folder.parent
    place.parent.mkdir(parents=True)
    place.symlink_to(victim.parent)
    encoded = HostEncodings.of((torch.zeros(3, 1),), 3)
    assert not cache.write(PassKey("0" * 64, 3, 0), encoded, 1.0, 3)
    [line] = said
    assert "leads out of" in line


def test_a_record_that_leads_elsewhere_gives_nothing_away(tmp_path: Path, victim: Path) -> None:
    from bench.records.record import read_folder

    (tmp_path / "secret.json").symlink_to(victim)
    found = read_folder(tmp_path)
    assert found.records == ()
    assert "precious" not in json.dumps(found.problems)
