"""Kill a bench at random moments, start it again, and look at what is left each time."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import time
import uuid
import zipfile
from pathlib import Path

from tiny import ROOT, bench_command

MARK = "TALBENCH_ENDURANCE"
VICTIMS = ("parent", "child", "both")
GONE_SECONDS = 60
"""A child that has not finished its imports yet looks at its parent only then."""
COMPARED = ("metrics", "diagnosis", "training", "forecast")
STEPS = ("--protocol", "steps=60", "--checkpoint-seconds", "0", "--workers", "1")


class Bench:
    """A bench in a process of its own, of which every descendant carries a mark."""

    def __init__(self, data, results, strategies):
        self.mark = uuid.uuid4().hex
        environment = {**os.environ, "OMP_NUM_THREADS": "1", MARK: self.mark}
        command = bench_command(data, results, *STEPS, strategies=strategies)
        self.started = time.time()
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def marked(self):
        """Return the ids of the living processes that descend from this bench, itself left out."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() not in (folder / "environ").read_bytes():
                    continue
                if (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(folder.name))
            except OSError:
                continue
        return [each for each in found if each != self.process.pid]

    def children(self):
        """Return the runs' processes."""
        found = []
        for each in self.marked():
            try:
                if b"bench.run.worker" in Path(f"/proc/{each}/cmdline").read_bytes():
                    found.append(each)
            except OSError:
                continue
        return found

    def kill(self, victim):
        """Kill at once; return what was hit, nothing where there was no child."""
        children = self.children() if victim != "parent" else []
        hit = []
        if victim != "child":
            self.process.kill()
            hit.append("parent")
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
                hit.append("child")
            except ProcessLookupError:
                continue
        return "+".join(sorted(set(hit)))

    def end(self):
        """Wait for the end; return the exit code and what was said."""
        said = self.process.communicate(timeout=600)[1]
        return self.process.returncode, said


def wait_until_gone(bench):
    """Return the processes that a bench left behind and that did not end by themselves."""
    end = time.monotonic() + GONE_SECONDS
    while (left := bench.marked()) and time.monotonic() < end:
        time.sleep(0.05)
    for each in left:
        os.kill(each, signal.SIGKILL)
    return left


def finished(results):
    """Return the bytes of the records that ended well, and of their detections."""
    found = {}
    for path in (results / "records").glob("*.json"):
        record = json.loads(path.read_text())
        if record["status"] == "ok":
            found[path] = path.read_bytes()
            detections = results / "detections" / f"{path.stem}.json.gz"
            found[detections] = detections.read_bytes()
    return found


def torn(results):
    """Return the files that are there but not whole."""
    found = []
    for path in results.rglob("[!.]*"):
        try:
            if path.name.endswith(".json"):
                json.loads(path.read_text())
            elif path.name.endswith(".json.gz"):
                json.loads(gzip.decompress(path.read_bytes()))
            elif path.suffix == ".pt" and zipfile.ZipFile(path).testzip():
                found.append(path.name)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile):
            found.append(path.name)
    return found


def temporary(*folders):
    """Return what lies about under a hidden name."""
    return [path for folder in folders for path in folder.rglob(".*")]


def results_of(results):
    """Return what must be bitwise equal, by run: parts of the records, and detections."""
    found = {}
    for path in (results / "records").glob("*.json"):
        record = json.loads(path.read_text())
        detections = gzip.decompress((results / "detections" / f"{path.stem}.json.gz").read_bytes())
        peaks = {key: record["memory"][key] for key in ("peak_allocated_bytes", "kinds", "stages")}
        found[path.stem] = ({part: record[part] for part in COMPARED}, peaks, detections)
    return found


def begin_round(unbroken, results, rng):
    """Make ``results`` with all runs of ``unbroken`` but one in it, finished, for the kills to spare."""
    records = sorted((unbroken / "records").glob("*.json"))
    for part in ("records", "detections"):
        (results / part).mkdir(parents=True)
    for record in rng.sample(records, len(records) - 1):
        for part, name in (("records", record.name), ("detections", f"{record.stem}.json.gz")):
            shutil.copy(unbroken / part / name, results / part / name)


def endure(data, folder, strategies, kills, seed, say=lambda line: None):
    """Return the report of ``kills`` kills: what was hit, and one line for each thing that did not hold.

    A round is a bench of which all runs but one are finished from the start; it is killed and started again
    until it ends by itself.
    """
    began = time.monotonic()
    failures, hits, moments, rounds, resumed = [], {}, [], 0, 0

    def expect(held, line):
        if not held:
            failures.append(f"kill {len(moments)}: {line}")
            say(failures[-1])

    plain = Bench(data, folder / "unbroken", strategies)
    code, said = plain.end()
    assert code == 0, said
    expected = results_of(folder / "unbroken")
    span = time.time() - plain.started
    if len(expected) > 1:  # a round does one of them
        probe = folder / "probe"
        begin_round(folder / "unbroken", probe, random.Random(seed))
        timed = Bench(data, probe, strategies)
        code, said = timed.end()
        assert code == 0, said
        span = time.time() - timed.started
    rng = random.Random(seed)
    while len(moments) < kills:
        rounds += 1
        results = folder / f"round-{rounds}"
        begin_round(folder / "unbroken", results, rng)
        while True:  # until all runs of the round ended well
            before = finished(results)
            bench = Bench(data, results, strategies)
            moment, victim = rng.uniform(0, span), rng.choice(VICTIMS)
            by_itself = len(moments) >= kills
            if not by_itself:
                try:
                    bench.process.wait(moment)
                    by_itself = True
                except subprocess.TimeoutExpired:
                    hit = bench.kill(victim)
                    if hit:  # there may have been no child at that moment
                        hits[hit] = hits.get(hit, 0) + 1
                        moments.append(round(moment, 2))
                        say(f"kill {len(moments)} of {kills} after {moment:.1f} s: {hit}")
            code, said = bench.end()
            left = wait_until_gone(bench)
            expect(not left, f"{len(left)} processes stayed")
            after = finished(results)
            same = all(after.get(path) == content for path, content in before.items())
            expect(same, "a finished record changed")
            expect(not (files := torn(results)), f"torn: {files}")
            expect("Traceback" not in said, f"a traceback: {said[-300:]}")
            resumed += said.count("resumed after step")
            if code >= 0:  # it ended by itself, so that it cleared away
                hidden = temporary(*(each for each in (results, data / "cache") if each.exists()))
                expect(not hidden, f"left: {[path.name for path in hidden]}")
            if code == 0:
                break
            expect(not by_itself or code in (0, 1), f"exit code {code}: {said[-300:]}")
        unfinished = [path.name for path in (results / "unfinished").glob("*")]
        expect(not unfinished, f"finished, but left: {unfinished}")
        found = results_of(results)
        expect(found.keys() == expected.keys(), f"runs {sorted(found)}")
        expect(found == expected, "results differ from those of an unbroken run")
    return {
        "kills": len(moments),
        "seed": seed,
        "strategies": strategies,
        "hits": hits,
        "rounds": rounds,
        "resumed": resumed,
        "round_seconds": round(span, 1),
        "wall_seconds": round(time.monotonic() - began, 1),
        "failures": failures,
    }
