"""Projects of the VGG Image Annotator (VIA), version 3: temporal segments of videos.

Source: VIA's docs and source (gitlab.com/vgg/via, via-3.x.y, `_via_metadata.js`, `_via_attribute.js`): an
entry of `metadata` with two times `z` (seconds), no region `xy`, and values `av` by attribute. Attributes
with options store the option's id, a checkbox several with commas between them.
"""

from collections.abc import Mapping
from typing import Any

from datasets.annotations.imports.database import Database

KIND = "via"
CHECKBOX = 2
IMAGE = 2


def is_via(top: Any) -> bool:
    return isinstance(top, dict) and all(
        isinstance(top.get(key), dict) for key in ("metadata", "file", "attribute", "view")
    )


def read_via(top: Mapping[str, Any], database: Database) -> None:
    """Add the videos and their temporal segments; the values of all chosen attributes are labels."""
    names = {key: _name(top, key, view, database) for key, view in top["view"].items()}
    for key, name in names.items():
        if name is not None:
            database.video(name, f"view.{key[:60]}")
    attributes = {
        key: value if isinstance(value, dict) else {"aname": key} for key, value in top["attribute"].items()
    }
    used, others, unlabelled = list[str](), 0, 0
    for key, item in top["metadata"].items():
        where = f"metadata.{key[:60]}"
        if not isinstance(item, dict) or not isinstance(item.get("av", {}), dict):
            database.fail(where, "an object with vid, z and av is needed")
        times = item.get("z", [])
        if not isinstance(times, list) or len(times) != 2 or item.get("xy"):
            others += 1
            continue
        name = names.get(str(item.get("vid")))
        if name is None:
            database.fail(f"{where}.vid", "no video of the project has this id")
        start, end = (database.number(time, f"{where}.z") for time in times)
        values = [(str(attributes.get(each, {}).get("aname", each)), each) for each in item.get("av", {})]
        used += [aname for aname, _ in values]
        labels = [
            label
            for aname, each in values
            if database.chosen(aname)
            for label in _labels(item["av"][each], attributes.get(each, {}))
        ]
        unlabelled += not labels
        annotations = database.video(name, where)
        annotations += [{"segment": [start, end], "label": label} for label in labels]
    database.check_tiers("attributes", used)
    if others:
        database.notes.append(f"{others} regions and single times are left out: they are no segments")
    if unlabelled:
        database.notes.append(f"{unlabelled} segments without a value are left out")


def _name(top: Mapping[str, Any], key: str, view: Any, database: Database) -> str | None:
    """Return the file name of a view's first video; None for a view of images."""
    files = view.get("fid_list") if isinstance(view, dict) else None
    if not isinstance(files, list):
        database.fail(f"view.{key[:60]}.fid_list", "a list is needed")
    for each in files:
        file = top["file"].get(str(each))
        if not isinstance(file, dict):
            database.fail(f"file.{str(each)[:60]}", "missing")
        if file.get("type") != IMAGE:
            name = file.get("fname") or file.get("src")
            return name if isinstance(name, str) else None
    return None


def _labels(value: Any, attribute: Mapping[str, Any]) -> list[str]:
    """Return the labels of an attribute's value: its options' names, or the text."""
    options = attribute.get("options")
    options = options if isinstance(options, dict) else {}
    text = str(value)
    parts = text.split(",") if options and attribute.get("type") == CHECKBOX else [text]
    return [str(options.get(part, part)).strip() for part in parts if part.strip()]
