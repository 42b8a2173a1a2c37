"""Stands for ``bench.measure.worker``: answers at once, or as the strategy's name says.

``kill`` and ``oom`` end by SIGKILL when they are measured, the second after the file of the variable VMSTAT
counts one more kill; ``sleep`` does not answer; ``slow`` is built late. The file of LOG gets a line for each
forecast, building, and begin and end of a measurement.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def log(*words):
    with open(os.environ["LOG"], "a") as file:
        print(*words, file=file)


def forecast(question):
    return {
        "model": question["model"],
        "strategy": question["strategy"],
        "settings": {},
        "backward": "plain",
        **{"frames": 16, "clips": 1, "image_size": 32, "batch_size": 1},
        **{"precision": "float32", "device": "cpu", "predicted_peak_bytes": 1000},
        **{"kinds": {"input": 1000}, "phases": {"load": 1000}},
    }


def measure(strategy):
    log("begin", strategy)
    if strategy == "oom":
        Path(os.environ["VMSTAT"]).write_text("oom_kill 1\n")
    if strategy in ("oom", "kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600 if strategy == "sleep" else 0.1)
    log("end", strategy)
    measured = {"peak_allocated_bytes": 1000, "seconds_per_step": 0.5, "clips_per_second": 2.0}
    return {"status": "ok", "message": None, "measured": measured, "environment": {"device": "a processor"}}


def main():
    question = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "forecast" in request:
            log("forecast", request["forecast"]["strategy"])
            answer = {"row": forecast(request["forecast"])}
            if request["forecast"]["strategy"] == "refused":
                answer = {"error": "no such"}
        elif "build" in request:
            question = request["build"]
            log("build", question["strategy"])
            time.sleep(2 if question["strategy"] == "slow" else 0)
            answer = {"built": True}
        else:
            answer = {"row": measure(question["strategy"])}
        print(json.dumps(answer), flush=True)


main()
