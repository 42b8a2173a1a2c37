"""Build tables and figures from records; the same records give the same files."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path

from bench.io.errors import InputError
from bench.io.text import printable
from bench.io.writing import check_inside, write_atomically
from bench.records.locks import REPORT, locked
from bench.records.record import read_folder


@dataclasses.dataclass(frozen=True)
class Report:
    """The printed text of a report, and the files written."""

    text: str
    files: tuple[Path, ...]


def build(results: Path) -> Report:
    """Rebuild tables, figures and ``index.html`` of ``results`` from its records, forecasts and steps.

    Published numbers are those of ``results/published``, or the shipped ones that the runs may be compared
    with. Concurrent calls are serialised by a lock. Raises InputError if there is no readable record, or for
    an invalid file of published numbers.
    """
    check_inside(results, "tables", "figures", "bootstrap", "locks")
    if not any((results / "records").glob("*.json")):
        return _build(results)  # raises InputError without creating a folder
    with locked(results, REPORT):
        try:
            return _build(results)
        finally:
            gc.unfreeze()


def _build(results: Path) -> Report:
    from bench.report.analysis import convergence, findings
    from bench.report.analysis.differences import with_differences
    from bench.report.figures import accuracy as figures
    from bench.report.figures import convergence as convergence_figures
    from bench.report.figures import memory as memory_figures
    from bench.report.figures import training as training_figures
    from bench.report.page import Section, page
    from bench.report.tables import (
        ablations,
        anchors,
        configurations,
        detection_errors,
        measured_memory,
        published,
    )
    from bench.report.tables import comparison as tables
    from bench.report.tables import forecasts as forecast_rows
    from bench.report.tables.outcomes import outcome_lines

    folder = read_folder(results / "records")
    gc.freeze()  # exclude the records from garbage collections
    problems = [f"skipped {problem}" for problem in folder.problems]
    if not folder.records:
        raise InputError(
            "; ".join([f"{results / 'records'}: holds no record, run `make bench` first", *problems])
        )
    comparisons = [with_differences(item, results) for item in tables.comparisons(folder.records)]
    comparisons = convergence.with_doublings(comparisons)
    forecasts, wrong = forecast_rows.read_forecasts(results / "forecasts")
    steps, unread = measured_memory.read_steps(results / "memory")
    anchored, unlike = anchors.read_anchors(results / "anchors")
    problems += [f"skipped {problem}" for problem in (*wrong, *unread, *unlike)]
    printed = published.read_published(results / "published", comparisons)
    contents = {
        "comparison.csv": tables.comparison_csv(comparisons),
        "comparison.md": tables.comparison_markdown(comparisons),
        "comparison.tex": tables.comparison_latex(comparisons),
        "runs.csv": tables.runs_csv(folder.records),
        **ablations.contents(comparisons),
        **detection_errors.contents(comparisons),
        **measured_memory.contents(steps),
        **anchors.contents(anchored),
        **published.contents(printed, comparisons),
    }
    if forecasts:
        contents["forecasts.csv"] = forecast_rows.forecasts_csv(forecasts)
        contents["forecasts.md"] = forecast_rows.forecasts_markdown(forecasts)
    files, sections = [], []
    for name, content in contents.items():
        files.append(results / "tables" / name)
        write_atomically(files[-1], content.encode())
    for item in comparisons:
        drawn = [*figures.draw(item, results), *training_figures.draw(item, results)]
        drawn += convergence_figures.draw(item, results)
        remarks = (
            f"Device: {item.device}",
            tables.PREFACE,
            *convergence.remarks([item]),
            *convergence.baseline_lines(item),
            *outcome_lines(item),
        )
        sections.append(
            Section(item.title, remarks, *tables.cells(item), tuple(drawn), configurations.details(item))
        )
        files += drawn
        for ablation in ablations.ablations(item):
            remarks = (ablations.preface(ablation),)
            sections.append(Section(ablation.title, remarks, *ablations.cells(ablation)))
        if wrongs := detection_errors.draw(item, results):
            remarks = (f"Device: {item.device}", detection_errors.PREFACE)
            cells = detection_errors.cells(item)
            sections.append(Section(f"Detection errors: {item.title}", remarks, *cells, tuple(wrongs)))
            files += wrongs
    if forecasts:
        drawn = memory_figures.draw(forecasts, folder.records, results, steps)
        cells = forecast_rows.cells(forecasts)
        sections.append(Section(forecast_rows.TITLE, (forecast_rows.PREFACE,), *cells, tuple(drawn)))
        files += drawn
    if steps:
        cells = measured_memory.cells(steps)
        sections.append(Section(measured_memory.TITLE, (measured_memory.PREFACE,), *cells))
    if anchored:
        sections.append(Section(anchors.TITLE, (anchors.PREFACE,), *anchors.cells(anchored)))
    for table in printed:
        for part in published.sections(table, comparisons):
            title = f"{table.title}: {part.name}"
            sections.append(Section(title, (published.PREFACE,), part.header, part.lines))
    for name, content in findings.contents(comparisons).items():
        files.append(results / name)
        write_atomically(files[-1], content.encode())
    files.append(results / "index.html")
    write_atomically(files[-1], page(sections).encode())
    text = "\n\n".join(tables.plain_text(comparison) for comparison in comparisons)
    places = f"tables, figures, all on one page: {results / 'tables'}, {results / 'figures'}, {files[-1]}"
    return Report("\n".join([text, "", places, *map(printable, problems)]), tuple(files))
