"""Records in, tables and figures out. Regenerating from the same records changes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bench.errors import InputError
from bench.record import read_folder, write_atomically


@dataclasses.dataclass(frozen=True)
class Report:
    """What a report prints, and the files that it wrote."""

    text: str
    files: tuple[Path, ...]


def build(results: Path) -> Report:
    """Rebuild ``results/tables`` and ``results/figures`` from its records, forecasts and published numbers.

    Raises InputError when there is no readable record.
    """
    from bench.report import detection_errors, figures, forecast_rows, memory_figures, published, tables

    folder = read_folder(results / "records")
    problems = [f"skipped {problem}" for problem in folder.problems]
    if not folder.records:
        raise InputError(
            "; ".join([f"{results / 'records'}: holds no record, run `make bench` first", *problems])
        )
    comparisons = tables.comparisons(folder.records)
    forecasts, wrong = forecast_rows.read_forecasts(results / "forecasts")
    problems += [f"skipped {problem}" for problem in wrong]
    contents = {
        "comparison.csv": tables.comparison_csv(comparisons),
        "comparison.md": tables.comparison_markdown(comparisons),
        "comparison.tex": tables.comparison_latex(comparisons),
        "runs.csv": tables.runs_csv(folder.records),
    }
    contents |= detection_errors.contents(comparisons)
    contents |= published.contents(published.read_published(results / "published"), comparisons)
    if forecasts:
        contents["forecasts.csv"] = forecast_rows.forecasts_csv(forecasts)
        contents["forecasts.md"] = forecast_rows.forecasts_markdown(forecasts)
    files = []
    for name, content in contents.items():
        files.append(results / "tables" / name)
        write_atomically(files[-1], content.encode())
    for comparison in comparisons:
        files += figures.draw(comparison, results)
        files += detection_errors.draw(comparison, results)
    files += memory_figures.draw(forecasts, folder.records, results)
    text = "\n\n".join(tables.plain_text(comparison) for comparison in comparisons)
    lines = [text, "", f"tables and figures: {results / 'tables'}, {results / 'figures'}", *problems]
    return Report("\n".join(lines), tuple(files))
