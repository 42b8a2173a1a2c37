"""Small files of every tool, written after its documentation, and what they hold, worked out by hand."""

import json
from typing import Any

MMACTION = {
    "v_a1": {
        "duration_second": 82.5,
        "duration_frame": 2475,
        "annotations": [{"segment": [6.25, 77.5], "label": "Ballet"}],
        "feature_frame": 2464,
        "fps": 30.0,
        "rfps": 29.969,
    },
    "v_b2": {"duration_second": 10, "duration_frame": 250, "annotations": [], "feature_frame": 240},
}
"""MMAction2, docs of ActivityNet's preparation: entries of `anet_anno_train.json`."""

VIA = {
    "project": {"pid": "x", "rev": "1", "pname": "p", "data_format_version": "3.1.1", "vid_list": ["1", "2"]},
    "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}},
    "attribute": {
        "1": {
            "aname": "Activity",
            "anchor_id": "FILE1_Z2_XY0",
            "type": 4,
            "desc": "",
            "options": {"1": "Break Egg", "2": "Pour, slowly"},
            "default_option_id": "",
        },
        "2": {"aname": "Object", "anchor_id": "FILE1_Z1_XY1", "type": 1, "options": {}},
        "3": {
            "aname": "Hands",
            "anchor_id": "FILE1_Z2_XY0",
            "type": 2,
            "options": {"l": "left", "r": "right"},
        },
    },
    "file": {
        "1": {"fid": "1", "fname": "kitchen one.mp4", "type": 4, "loc": 1, "src": "kitchen one.mp4"},
        "2": {"fid": 2, "fname": "https://example.org/films/two.webm", "type": 4, "loc": 2, "src": ""},
    },
    "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": [2]}},
    "metadata": {
        "1_a": {"vid": "1", "flg": 0, "z": [2.5, 7.25], "xy": [], "av": {"1": "1"}},
        "1_b": {"vid": "1", "flg": 0, "z": [8, 9.5], "xy": [], "av": {"1": "2", "3": "l,r"}},
        "1_c": {"vid": "1", "flg": 0, "z": [3.0], "xy": [2, 10, 10, 50, 50], "av": {"2": "Egg"}},
        "2_d": {"vid": "2", "flg": 0, "z": [0, 1], "xy": [], "av": {"1": "free text"}},
        "2_e": {"vid": "2", "flg": 0, "z": [4, 5], "xy": [], "av": {}},
    },
}
"""VIA 3, `_via_metadata.js` and `_via_attribute.js`: option ids, a checkbox, a region."""

LABEL_STUDIO: list[Any] = [
    {
        "id": 1,
        "file_upload": "0a1b2c3d-first.mp4",
        "data": {"video": "/data/upload/3/0a1b2c3d-first.mp4"},
        "annotations": [
            {"id": 4, "was_cancelled": True, "result": [{"type": "timelinelabels", "value": {}}]},
            {
                "id": 5,
                "was_cancelled": False,
                "result": [
                    {
                        "id": "x",
                        "type": "timelinelabels",
                        "from_name": "actions",
                        "to_name": "video",
                        "value": {"ranges": [{"start": 3, "end": 5}], "timelinelabels": ["Moving"]},
                    },
                    {
                        "id": "y",
                        "type": "videorectangle",
                        "from_name": "box",
                        "to_name": "video",
                        "value": {"framesCount": 50, "duration": 5.0, "sequence": [], "labels": ["Man"]},
                    },
                ],
            },
        ],
        "predictions": [],
    },
    {
        "id": 2,
        "data": {"video": "/data/local-files/?d=films%2Fsecond%20one.mp4"},
        "annotations": [
            {
                "id": 6,
                "result": [
                    {
                        "type": "labels",
                        "from_name": "sounds",
                        "to_name": "audio",
                        "original_length": 9.5,
                        "value": {"start": 1.25, "end": 2.5, "channel": 0, "labels": ["Clap", "Loud"]},
                    },
                    {"type": "relation", "from_id": "x", "to_id": "y"},
                ],
            }
        ],
    },
]
"""Label Studio, guide/task_format and tags/timelinelabels."""

LABEL_STUDIO_MIN: list[Any] = [
    {
        "id": 1,
        "video": "s3://bucket/films/first.mp4",
        "actions": [{"ranges": [{"start": 3, "end": 5}], "timelinelabels": ["Moving"]}],
        "annotator": 1,
        "annotation_id": 5,
        "lead_time": 3.1,
    }
]

ELAN = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2024-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0">
  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/films/my%20film.wav" MIME_TYPE="audio/x-wav"/>
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/films/my%20film.mp4" MIME_TYPE="video/mp4" TIME_ORIGIN="500"
      RELATIVE_MEDIA_URL="./my%20film.mp4"/>
  </HEADER>
  <TIME_ORDER>
    <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="780"/>
    <TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="1780"/>
    <TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="2000"/>
    <TIME_SLOT TIME_SLOT_ID="ts4"/>
    <TIME_SLOT TIME_SLOT_ID="ts5"/>
    <TIME_SLOT TIME_SLOT_ID="ts6" TIME_VALUE="5000"/>
  </TIME_ORDER>
  <TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="action">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
      <ANNOTATION_VALUE>wave</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts3" TIME_SLOT_REF2="ts6">
      <ANNOTATION_VALUE></ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER LINGUISTIC_TYPE_REF="parts" TIER_ID="phase" PARENT_REF="action">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a3" TIME_SLOT_REF1="ts3" TIME_SLOT_REF2="ts4">
      <ANNOTATION_VALUE>up</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a4" TIME_SLOT_REF1="ts4" TIME_SLOT_REF2="ts5">
      <ANNOTATION_VALUE>hold</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a5" TIME_SLOT_REF1="ts5" TIME_SLOT_REF2="ts6">
      <ANNOTATION_VALUE>down</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER LINGUISTIC_TYPE_REF="note" TIER_ID="note" PARENT_REF="action">
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a6" ANNOTATION_REF="a1">
      <ANNOTATION_VALUE>left
      hand</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a7" ANNOTATION_REF="a6">
      <ANNOTATION_VALUE>sure</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
  </TIER>
</ANNOTATION_DOCUMENT>
"""
"""ELAN Annotation Format (EAF 3.0): unaligned slots, references to references, a value of two lines."""

CVAT_VIDEO = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>7</id><name>my task</name><size>100</size><mode>interpolation</mode>
    <frame_filter>step=5</frame_filter><subset>Train</subset>
    <labels><label><name>walk</name></label></labels><source>film.mp4</source></task></meta>
  <track id="0" label="walk" source="manual">
    <box frame="10" keyframe="1" outside="0" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0"/>
    <box frame="15" keyframe="0" outside="0" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0"/>
    <box frame="20" keyframe="1" outside="1" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0"/>
    <box frame="50" keyframe="1" outside="0" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0"/>
  </track>
  <track id="1" label="wave" source="manual">
    <polygon frame="0" keyframe="1" outside="0" occluded="0" points="1,1;2,2;3,1"/>
    <polygon frame="5" keyframe="1" outside="1" occluded="0" points="1,1;2,2;3,1"/>
  </track>
</annotations>
"""
CVAT_IMAGES = """<annotations><version>1.1</version>
  <meta><task><id>7</id><name>film.mp4</name><mode>annotation</mode></task></meta>
  <image id="3" name="frame_000003" width="64" height="64"><tag label="walk" source="manual"/></image>
  <image id="4" name="frame_000004" width="64" height="64"><tag label="walk" source="manual"/>
    <box label="man" xtl="1" ytl="1" xbr="9" ybr="9"/></image>
  <image id="8" name="frame_000008" width="64" height="64"><tag label="walk" source="manual"/></image>
</annotations>
"""
"""CVAT, "XML annotation format" 1.1 for videos and for images."""

CSV = """Video,Start,End,Label
films/a.mp4,1.5,0:03,wave
films/a.mp4,00:00:04.250,5,"walk, slowly"
b,,,
"""

FRAMES: dict[str, list[tuple[float, float, str]]] = {
    "film": [(0, 0.5, "wave"), (1, 2, "walk"), (5, 5.5, "walk")]
}

SAMPLES: dict[str, tuple[bytes, dict[str, list[tuple[float, float, str]]]]] = {
    "mmaction.json": (json.dumps(MMACTION).encode(), {"v_a1": [(6.25, 77.5, "Ballet")], "v_b2": []}),
    "via.json": (
        json.dumps(VIA).encode(),
        {
            "kitchen one": [
                (2.5, 7.25, "Break Egg"),
                (8, 9.5, "Pour, slowly"),
                (8, 9.5, "left"),
                (8, 9.5, "right"),
            ],
            "two": [(0, 1, "free text")],
        },
    ),
    "label_studio.json": (
        json.dumps(LABEL_STUDIO).encode(),
        {"first": [(0.2, 0.5, "Moving")], "second one": [(1.25, 2.5, "Clap"), (1.25, 2.5, "Loud")]},
    ),
    "label_studio_min.json": (json.dumps(LABEL_STUDIO_MIN).encode(), {"first": [(0.2, 0.5, "Moving")]}),
    "film.eaf": (
        ELAN.encode(),
        {
            "my film": [
                (1.28, 2.28, "wave"),
                (2.5, 5.5, "action"),
                (2.5, 3.5, "up"),
                (3.5, 4.5, "hold"),
                (4.5, 5.5, "down"),
                (1.28, 2.28, "left hand"),
                (1.28, 2.28, "sure"),
            ]
        },
    ),
    "tracks.xml": (CVAT_VIDEO.encode(), FRAMES),
    "tags.xml": (CVAT_IMAGES.encode(), {"film": [(0.3, 0.5, "walk"), (0.8, 0.9, "walk")]}),
    "segments.csv": (CSV.encode(), {"a": [(1.5, 3, "wave"), (4.25, 5, "walk, slowly")], "b": []}),
}
"""Content and instances by file name, read at 10 frames a second; ranges of Label Studio count from 1."""
