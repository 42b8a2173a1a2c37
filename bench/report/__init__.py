"""Records in, tables and figures out. Regenerating from the same records changes nothing."""

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
    """What a report prints, and the files that it wrote."""

    text: str
    files: tuple[Path, ...]


def build(results: Path) -> Report:
    """Rebuild tables, figures and ``index.html`` of ``results`` from its records, forecasts and steps.

    Published numbers are those of ``results/published``, or shipped ones beside which its runs may stand.
    Of several processes that do so at once, one waits for the other.
    Raises InputError when there is no readable record, and for a file of published numbers that is none.
    """
    check_inside(results, "tables", "figures", "locks")
    if not any((results / "records").glob("*.json")):
        return _build(results)  # says so, and leaves no folder behind
    with locked(results, REPORT):
        try:
            return _build(results)
        finally:
            gc.unfreeze()


def _build(results: Path) -> Report:
    from bench.report.figures import accuracy as figures
    from bench.report.figures import memory as memory_figures
    from bench.report.figures import training as training_figures
    from bench.report.page import Section, page
    from bench.report.tables import ablations, configurations, detection_errors, measured_memory, published
    from bench.report.tables import comparison as tables
    from bench.report.tables import forecasts as forecast_rows

    folder = read_folder(results / "records")
    problems = [f"skipped {problem}" for problem in folder.problems]
    if not folder.records:
        raise InputError(
            "; ".join([f"{results / 'records'}: holds no record, run `make bench` first", *problems])
        )
    comparisons = tables.comparisons(folder.records)
    forecasts, wrong = forecast_rows.read_forecasts(results / "forecasts")
    steps, unread = measured_memory.read_steps(results / "memory")
    problems += [f"skipped {problem}" for problem in (*wrong, *unread)]
    printed = published.read_published(results / "published", comparisons)
    contents = {
        "comparison.csv": tables.comparison_csv(comparisons),
        "comparison.md": tables.comparison_markdown(comparisons),
        "comparison.tex": tables.comparison_latex(comparisons),
        "runs.csv": tables.runs_csv(folder.records),
        **ablations.contents(comparisons),
        **detection_errors.contents(comparisons),
        **measured_memory.contents(steps),
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
        failed = [f"Failed: {text}" for text in tables.failed_lines(item)]
        remarks = (f"Device: {item.device}", tables.PREFACE, *failed)
        sections.append(
            Section(item.title, remarks, *tables.cells(item), tuple(drawn), configurations.details(item))
        )
        files += drawn
        for ablation in ablations.ablations(item):
            sections.append(Section(ablation.title, (ablations.PREFACE,), *ablations.cells(ablation)))
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
    for table in printed:
        for part in published.sections(table, comparisons):
            title = f"{table.title}: {part.name}"
            sections.append(Section(title, (published.PREFACE,), part.header, part.lines))
    files.append(results / "index.html")
    write_atomically(files[-1], page(sections).encode())
    text = "\n\n".join(tables.plain_text(comparison) for comparison in comparisons)
    places = f"tables, figures, all on one page: {results / 'tables'}, {results / 'figures'}, {files[-1]}"
    return Report("\n".join([text, "", places, *map(printable, problems)]), tuple(files))
