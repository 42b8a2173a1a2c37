"""JSON of MMAction2 and BMN: `{video: {duration_second, duration_frame, annotations, feature_frame}}`.

Source: MMAction2, tools/data/activitynet (`anet_anno_train.json`), after BMN's `anet_anno_action.json`.
"""

from collections.abc import Mapping
from typing import Any

from datasets.annotations.imports.database import Database

KIND = "mmaction"


def is_mmaction(top: Any) -> bool:
    """Return whether all values are videos with annotations, as MMAction2's and BMN's are."""
    return (
        isinstance(top, dict)
        and bool(top)
        and all(isinstance(entry, dict) and "annotations" in entry for entry in top.values())
        and any("duration_second" in entry or "duration" in entry for entry in top.values())
    )


def read_mmaction(top: Mapping[str, Any], database: Database) -> None:
    """Add the videos. Segments are in seconds; the frame counts are those of features and are not read."""
    for key, entry in top.items():
        subset, duration = entry.get("subset"), entry.get("duration_second", entry.get("duration"))
        seconds = None if duration is None else database.number(duration, f"{key[:60]}.duration_second")
        annotations = entry["annotations"]
        if not isinstance(annotations, list):
            database.fail(f"{key[:60]}.annotations", "a list is needed")
        found = database.video(key, "video", subset if isinstance(subset, str) else None, seconds)
        found += annotations
