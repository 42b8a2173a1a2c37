"""Folders of results with one wrong file: a record, forecasts, detections, through report and checks."""

import gzip
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fuzz.mutations import mutated_bytes, mutated_document
from fuzz.sandbox import Findings, sandbox

from bench.io.tables import latex, markdown, plain
from bench.records.paths import detections_path, ground_truth_path
from bench.records.record import read_folder
from bench.report import build
from bench.report.figures import accuracy as figures
from bench.report.page import Section, page
from bench.report.tables import comparison as tables
from bench.report.tables import configurations, measured_memory, published
from bench.report.tables import forecasts as forecast_rows
from bench.verify import verify

COMMITTED = Path(__file__).parents[2] / "results"
JSON = ("record", "record", "record", "record", "forecast", "step", "detections", "truth")
OTHERS = ("published",)
SEGMENTS = [{"segment": [1.0, 2.5], "label": "run"}, {"segment": [4, 6.25], "label": "jump"}]
DETECTIONS = {"results": {"a": [{**each, "score": 0.5} for each in SEGMENTS]}}
WHOLE_REPORT = 0.01
"""Share of the files after which all figures are drawn, which takes seconds."""


def _record(strategy: str) -> dict[str, Any]:
    """A committed record of a strategy, as short as it may be."""
    [path] = (COMMITTED / "records").glob(f"miniature_vit-t_{strategy}_seed0_*.json")
    record: dict[str, Any] = json.loads(path.read_text())
    record["metrics"]["ap"] = {"run": dict(record["metrics"]["map"])}
    record["training"]["loss"] = record["training"]["loss"][:3]
    return record


def _prepare(folder: Path) -> dict[str, Any]:
    """Make a folder of results and return by kind the document that is to be made wrong."""
    records = {name: _record(name) for name in ("head-only", "losa", "lofi")}
    for name in (
        "records",
        "forecasts",
        "memory",
        "published",
        "detections",
        "ground_truth",
        "tuning/records",
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for record in records.values():
        (folder / "records" / f"{record['id']}.json").write_text(json.dumps(record))
    [row, *_] = json.loads((COMMITTED / "forecasts" / "models.json").read_text())
    measured = {"peak_allocated_bytes": 10**9, "seconds_per_step": 0.5}
    step = {**row, "measured": measured, "environment": {"device": "x"}, "status": "ok", "message": None}
    truth = {"database": {"a": {"subset": "testing", "annotations": SEGMENTS}}}
    table = (COMMITTED / "published" / "losa.csv").read_bytes()
    own = records["losa"]
    places = {
        "record": folder / "records" / f"{own['id']}.json",
        "forecast": folder / "forecasts" / "rows.json",
        "step": folder / "memory" / "row.json",
        "detections": detections_path(folder, own["id"]),
        "truth": ground_truth_path(folder, own),
        "published": folder / "published" / "losa.csv",
    }
    documents = {
        "record": own,
        "forecast": [row, row],
        "step": step,
        "detections": DETECTIONS,
        "truth": truth,
    }
    return {kind: (places[kind], documents.get(kind, table)) for kind in places}


def _content(rng: random.Random, kind: str, document: Any) -> bytes:
    if kind == "published":
        return mutated_bytes(rng, document)
    content = document if isinstance(document, bytes) else mutated_document(rng, document)
    return gzip.compress(content, 1) if kind in ("detections", "truth") else content


def fuzz(
    folder: Path,
    count: int,
    seed: int,
    kinds: Sequence[str] = (*JSON, *OTHERS),
    tick: Callable[[], object] = lambda: None,
) -> Findings:
    """What came of ``count`` files."""
    rng = random.Random(seed)
    wrong = _prepare(folder)
    whole = {kind: path.read_bytes() for kind, (path, _) in wrong.items() if kind == "record"}
    with sandbox(folder) as box:
        for _ in range(count):
            kind = rng.choice(kinds)
            path, document = wrong[kind]
            if kind in ("detections", "truth"):
                for each in ("detections", "truth"):
                    wrong[each][0].write_bytes(gzip.compress(json.dumps(wrong[each][1]).encode(), 1))
            path.write_bytes(_content(rng, kind, document))
            readers = [looked, checked]
            if rng.random() < WHOLE_REPORT:
                readers.append(reported)
            for reader in readers:
                box.read(kind, reader, path)
            box.found.files[kind] += 1
            path.unlink()
            if kind == "record":
                path.write_bytes(whole[kind])
            for made in ("tables", "figures"):
                shutil.rmtree(folder / made, ignore_errors=True)
            tick()
    return box.found


def looked(path: Path) -> None:
    """Make every table and the page, without the figures."""
    results = path.parents[1]
    found = read_folder(results / "records")
    rows, problems = forecast_rows.read_forecasts(results / "forecasts")
    steps, more = measured_memory.read_steps(results / "memory")
    for line in (*found.problems, *problems, *more):
        if not line.isprintable():
            raise AssertionError(f"a problem of characters that act: {line!r}")
    items = tables.comparisons(found.records)
    for item in items:
        cells = tables.cells(item)
        page([Section(item.title, (item.device,), *cells, (), configurations.details(item))])
        for make in (plain, markdown):
            make(*cells)
        latex(*cells, item.title)
    tables.comparison_csv(items)
    tables.runs_csv(found.records)
    forecast_rows.forecasts_csv(rows)
    measured_memory.contents(steps)
    if path.suffix == ".csv":
        published.contents(published.read_published(results / "published", items), items)
    if path.suffix == ".gz":
        for item in items:
            rows = [row for row in item.rows if row.finished]
            figures.timeline(item, rows, results, results / "figures" / "timeline")


def checked(path: Path) -> None:
    """Look for what was edited."""
    lines, _ = verify(path.parents[1])
    for line in lines:
        if not line.isprintable():
            raise AssertionError(f"a line of characters that act: {line!r}")


def reported(path: Path) -> None:
    """Make the whole report."""
    text = build(path.parents[1]).text
    if not text.replace("\n", "").isprintable():
        raise AssertionError("a report of characters that act")
