"""Recognise an annotation file of another tool by its content, and read it."""

import json
from typing import Any
from xml.etree import ElementTree

from bench.io.errors import InputError
from bench.io.reading import MAX_VALUES, reason
from bench.io.text import format_value
from datasets.annotations.imports import cvat, elan, label_studio, mmaction, tables, via
from datasets.annotations.imports.database import Database

KNOWN = (
    "ActivityNet's, MultiTHUMOS's, MMAction2's and BMN's JSON, VIA 3 and Label Studio JSON, ELAN (.eaf), "
    "CVAT XML 1.1, CSV and TSV with a header"
)
SUFFIXES = (".json", ".json.gz", ".csv", ".tsv", ".txt", ".eaf", ".xml")
"""Suffixes of annotation files; a file with another one is recognised by its content likewise."""


def read_json_import(top: Any, database: Database) -> str | None:
    """Add the videos of parsed JSON and return its kind; None if it is of no known tool."""
    if via.is_via(top):
        via.read_via(top, database)
        kind = via.KIND
    elif label_studio.is_label_studio(top):
        label_studio.read_label_studio(top, database)
        kind = label_studio.KIND
    elif mmaction.is_mmaction(top):
        mmaction.read_mmaction(top, database)
        kind = mmaction.KIND
    else:
        return None
    database.finish()
    return kind


def read_text_import(content: bytes, database: Database) -> str:
    """Add the videos of an XML file or a table, and return its kind; `InputError` if it is neither."""
    if content.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0").startswith(b"<"):
        root = parse_xml(content, database.file)
        if root.tag == elan.ROOT:
            elan.read_elan(root, database)
            kind = elan.KIND
        elif root.tag == cvat.ROOT and (root.find("meta") is not None or root.find("track") is not None):
            cvat.read_cvat(root, database)
            kind = cvat.KIND
        else:
            tag = format_value(root.tag)
            raise InputError(f"{database.file}: XML of an unknown kind {tag}; known are {KNOWN}")
    elif tables.read_table(content, database):
        kind = tables.KIND
    else:
        raise InputError(
            f"{database.file}: no format is recognised; known are {KNOWN}. {tables.column_names(content)}"
        )
    database.finish()
    return kind


def holds_json(content: bytes) -> bool:
    """Return whether content begins as JSON does."""
    return content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise InputError("it has a DOCTYPE, which is not allowed: it can define entities")


def parse_xml(content: bytes, file: str) -> ElementTree.Element:
    """Return the root of an XML file without a DOCTYPE, so that no entity is expanded."""
    if content.count(b"<") > MAX_VALUES:
        raise InputError(f"{file}: more than {MAX_VALUES:,} elements, which is the most that is allowed")
    try:
        return ElementTree.fromstring(content, ElementTree.XMLParser(target=_Builder()))
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise InputError(f"{file}: not XML: {reason(error)}") from None


def activitynet_json(database: dict[str, Any], file: str) -> bytes:
    """Return a database as ActivityNet's JSON; `InputError` for a number that is not finite."""
    document = {"version": "VERSION 1.3", "taxonomy": [], "database": database}
    try:
        return json.dumps(document, allow_nan=False, ensure_ascii=False, indent=1).encode() + b"\n"
    except ValueError as error:  # lone surrogates too
        raise InputError(f"{file}: cannot be written as JSON: {reason(error)}") from None
