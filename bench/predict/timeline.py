"""Draw the timeline of one video's segments: a row per label, scores as numbers and as bar heights."""

from __future__ import annotations

import io
from collections.abc import Sequence

from bench.io.text import printable
from bench.predict.segments import Segment, select_for_display
from bench.report.figures.fonts import draw_with_fonts
from bench.report.figures.style import COLOURS, HATCHES, canvas

TEXT_SHARE = 0.04
"""Width of a score's text, as a share of the axis."""


def colour_of(number: int) -> str:
    """Return the colour of the label ``number``; black is reserved for the axes."""
    return COLOURS[1:][number % (len(COLOURS) - 1)]


def draw_timeline(name: str, segments: Sequence[Segment], seconds: float) -> bytes:
    """Return the PNG for a video of ``seconds``; ``select_for_display`` selects the segments to draw."""
    shown = select_for_display(segments)
    labels = sorted({each.label for each in shown})
    best = max((each.score for each in shown), default=0.0) or 1.0
    with canvas(8.0, 0.45 * max(len(labels), 1) + 1.0) as (figure, axes):
        written: list[tuple[str, float]] = []
        for each in shown:
            number = labels.index(each.label)
            axes.barh(
                -number,
                each.end - each.start,
                left=each.start,
                height=0.15 + 0.35 * each.score / best,
                color=colour_of(number),
                hatch=HATCHES[number // (len(COLOURS) - 1) % len(HATCHES)],
                edgecolor="black",
                linewidth=0.5,
            )
            centre = (each.start + each.end) / 2
            # The score of a weaker segment is omitted if it would overlap that of a stronger one.
            near = (abs(centre - other) for label, other in written if label == each.label)
            if min(near, default=seconds) >= TEXT_SHARE * seconds:
                axes.text(centre, -number + 0.28, f"{each.score:.2f}", ha="center", va="bottom", fontsize=7)
                written.append((each.label, centre))
        axes.set_yticks([-number for number in range(len(labels))], [plain(label) for label in labels])
        axes.set_ylim(-max(len(labels), 1) + 0.5, 0.62)
        axes.set_xlim(0, seconds)
        if not shown:
            axes.text(seconds / 2, 0, "no segments", ha="center", va="center")
        axes.set_xlabel(
            f"seconds of {plain(name)}; {len(shown)} of {len(segments)} segments, "
            "those that no better one of their label covers; height: score"
        )

        def draw() -> bytes:
            picture = io.BytesIO()
            figure.savefig(picture, format="png", metadata={"Software": None})
            return picture.getvalue()

        return draw_with_fonts(figure, draw)


def plain(text: str) -> str:
    """Return printable text on one line, truncated to 40 characters."""
    return printable(text, 40)
