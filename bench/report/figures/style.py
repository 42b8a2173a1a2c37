"""Style of figures: the same colour and marker for a strategy in all of them, and files without dates."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib

from bench.io.writing import atomic_path
from bench.report.figures.fonts import draw_with_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can distinguish; markers and dashes are redundant cues.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "ooo", "---")

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "legend.frameon": False,
    "hatch.linewidth": 0.5,
    # Draw names literally: a dollar sign would start a formula, and an invalid formula is an error.
    "text.parse_math": False,
}


class SeriesStyle(NamedTuple):
    """Colour, marker and dashes of a row; ``filled`` is whether its markers are filled."""

    colour: str
    marker: str
    dashes: Any
    filled: bool = True


KNOWN = {
    "head-only": SeriesStyle("#000000", "o", "-"),
    "lofi": SeriesStyle("#009E73", "^", ":"),
    "lofi-added": SeriesStyle("#882255", "<", (0, (3, 1, 1, 1))),
    "full-finetune": SeriesStyle("#D55E00", "s", "-."),
    "losa": SeriesStyle("#CC79A7", "D", (0, (5, 1))),
    "capacity-control": SeriesStyle("#0072B2", "v", "--"),
    "mlp-control": SeriesStyle("#0072B2", "p", (0, (4, 1.5))),
    "temporal-control": SeriesStyle("#0072B2", "h", (0, (2, 1))),
    "wide-head": SeriesStyle("#0072B2", "8", (0, (6, 2))),
    "last-layer-cells": SeriesStyle("#CC79A7", "d", (0, (2, 2))),
    "adatad": SeriesStyle("#E69F00", "P", "-"),
    "adatad-beside": SeriesStyle("#E69F00", "X", "--"),
    "token-pruning": SeriesStyle("#E69F00", ">", ":"),
    "lora": SeriesStyle("#56B4E9", "*", "-"),
    "vpt": SeriesStyle("#56B4E9", "p", "--"),
    "side-tuning": SeriesStyle("#56B4E9", "s", ":"),
    "last-k": SeriesStyle("#7F7F7F", "s", "-"),
    "norm-tuning": SeriesStyle("#7F7F7F", "^", "--"),
    "bitfit": SeriesStyle("#7F7F7F", "v", ":"),
    "etad": SeriesStyle("#D55E00", "D", (0, (5, 1))),
}
"""Fixed styles, the same in every comparison."""
FREE_COLOURS = ("#E69F00", "#56B4E9", "#7F7F7F")
FREE_MARKERS = ("P", "X", "*", "<", ">", "p", "h")


def look_of(strategy: str) -> SeriesStyle:
    """Return a strategy's style: a fixed one, or one derived from its name."""
    if strategy in KNOWN:
        return KNOWN[strategy]
    number = int.from_bytes(hashlib.sha256(strategy.encode()).digest()[:4], "big")
    colour, rest = number % len(FREE_COLOURS), number // len(FREE_COLOURS)
    return SeriesStyle(FREE_COLOURS[colour], FREE_MARKERS[rest % len(FREE_MARKERS)], DASHES[1 + rest % 7])


def looks(strategies: Sequence[str]) -> list[SeriesStyle]:
    """Return a style for each row, given the rows' strategies.

    Rows of one strategy with different settings share its colour and marker; the first is filled and has the
    strategy's dashes, the others are hollow and have different dashes.
    """
    seen: dict[str, int] = {}
    found = []
    for name in strategies:
        number = seen.get(name, 0)
        seen[name] = number + 1
        look = look_of(name)
        if number:
            others = [dashes for dashes in DASHES if dashes != look.dashes]
            look = look._replace(dashes=others[(number - 1) % len(others)], filled=False)
        found.append(look)
    return found


@contextmanager
def canvas(width: float, height: float, columns: int = 1, lines: int = 1) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure of ``width`` by ``height`` inches and its axes, as an array if there are several."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(lines, columns, sharey=columns * lines > 1)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write PNG and PDF without dates, so that equal figures give equal files."""
    files = [path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.pdf")]
    nothing = ({"Software": None}, {"CreationDate": None, "Producer": None, "Creator": None})
    for file, metadata in zip(files, nothing, strict=True):
        with atomic_path(file) as draft:
            kind = file.suffix[1:]
            draw_with_fonts(figure, functools.partial(figure.savefig, draft, format=kind, metadata=metadata))
    return files


def plain_ticks(axis_of: Axes, direction: str, ticks: Sequence[float]) -> None:
    """Set the ticks of a logarithmic axis to those of ``ticks`` within its limits, as plain numbers."""
    low, high = axis_of.get_xlim() if direction == "x" else axis_of.get_ylim()
    inside = [tick for tick in ticks if low <= tick <= high]
    (axis_of.set_xticks if direction == "x" else axis_of.set_yticks)(inside, [f"{t:g}" for t in inside])
    (axis_of.xaxis if direction == "x" else axis_of.yaxis).set_minor_locator(matplotlib.ticker.NullLocator())
    (axis_of.set_xlim if direction == "x" else axis_of.set_ylim)(low, high)
