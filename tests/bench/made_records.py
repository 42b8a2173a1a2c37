"""Records made up for tests of the report, with numbers that can be worked out by hand."""

import csv
import io

from bench.records.record import write_record

TIOU = (0.3, 0.5)


def record(
    strategy="head-only", seed=0, average=0.3, peak=5_000_000, status="ok", digest="d" * 64, **changes
):
    ok = status == "ok"
    settings = {"name": strategy, "lr": 1.0, **changes.pop("settings", {})}
    return {
        "schema": 1,
        "id": f"mini_vit-t_{strategy}_seed{seed}_{digest[:4]}{len(str(settings))}",
        "status": status,
        "phase": None if ok else "end-to-end",
        "message": None if ok else "too <big> | much",
        "model": "vit-t",
        "strategy": settings,
        "dataset": {"name": "mini", "variant": "v1", "annotation_sha256": "a" * 64},
        "protocol": {"digest": digest, "tiou": list(TIOU), "evaluation_subset": "testing"},
        "seed": seed,
        "metrics": {"map": {"0.3": average + 0.1, "0.5": average - 0.1}, "map_average": average}
        if ok
        else None,
        "memory": {
            "meter": "cpu-tensors",
            "peak_allocated_bytes": peak,
            "predicted_peak_bytes": None,
            "inference": {"peak_allocated_bytes": peak // 2},
        }
        if ok
        else None,
        "cost": {"seconds_per_step": 0.1, "trainable_parameters": 1234, "total_parameters": 9999}
        if ok
        else None,
        "training": {"loss": [[10, 1.0, 0.5], [20, 0.5, 0.2]]} if ok else None,
        "weights": {"name": "source.safetensors", "sha256": "b" * 64},
        "environment": {"device": "test processor"} if ok else {},
        **changes,
    }


def folder(tmp_path, *records):
    for item in records:
        write_record(tmp_path / "records", item)
    return tmp_path


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))
