"""The page in a real browser: it sorts, filters, opens a row's configuration, loads and runs nothing else."""

import base64
import gzip
import hashlib
import html
import json
import re
import shutil
import subprocess

import pytest
from made_records import folder, record

from bench.records.paths import detections_path, ground_truth_path
from bench.report import build

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=5000",
)

# Acts as a reader would, and writes what it saw where the test finds it.
READER = """
const section = document.querySelector("section");
const column = name => [...section.querySelectorAll("th")].findIndex(th => th.textContent === name);
const names = () => [...section.querySelectorAll("tbody tr")].filter(r => !r.hidden)
  .map(r => r.cells[0].textContent);
const press = name => section.querySelectorAll("th button")[column(name)].click();
const seen = {start: names()};
press("average mAP (%)"); seen.ascending = names();
press("average mAP (%)"); seen.descending = names();
const input = section.querySelector("input");
input.value = "losa"; input.dispatchEvent(new Event("input")); seen.filtered = names();
input.value = ""; input.dispatchEvent(new Event("input")); seen.all = names();
const detail = [...section.querySelectorAll("details")].find(d => d.textContent.startsWith("losa"));
detail.open = true;
seen.detail = detail.querySelector("pre").textContent;
seen.shown = detail.querySelector("pre").getBoundingClientRect().height > 0;
seen.pictures = [...document.images].map(image => image.complete && image.naturalWidth > 0);
seen.loaded = performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:"));
seen.injected = window.injected === undefined;
const place = document.createElement("pre");
place.id = "seen"; place.textContent = JSON.stringify(seen);
document.body.append(place);
"""


def read(path, reader):
    """Open the page of the results in ``path`` and return what ``reader`` saw in it."""
    if BROWSER is None:
        pytest.skip("there is no Chromium here")
    script = f"window.onload = () => {{{reader}}}"
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = (path / "index.html").read_text()
    # Nothing but the page's own script may run; the reader's is let in by its own digest.
    text, changed = re.subn(r"script-src 'sha256-[^']+'", rf"\g<0> 'sha256-{own}'", text)
    assert changed == 1
    page = path / "read.html"
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    command = [BROWSER, *OPTIONS, f"--user-data-dir={path / 'profile'}", "--dump-dom", page.as_uri()]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="seen">(.*?)</pre>', process.stdout, re.DOTALL)
    assert found, process.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    path = tmp_path_factory.mktemp("page")
    nasty = "x<script>window.injected=1</script>"
    rows = (
        record(),
        record("losa", average=0.4),
        record("a-strategy", average=0.35),
        record(nasty, average=0.1, id="nasty"),
    )
    build(folder(path, *rows))
    return read(path, READER)


def test_a_click_sorts_and_a_second_one_turns_the_order(seen):
    assert sorted(seen["start"]) == sorted(seen["ascending"])
    assert [name[:4] for name in seen["ascending"]] == ["x<sc", "head", "a-st", "losa"]
    assert seen["descending"] == seen["ascending"][::-1]


def test_words_filter_rows(seen):
    assert seen["filtered"] == ["losa"]
    assert len(seen["all"]) == 4


def test_a_row_tells_its_configuration_and_what_sets_it_apart(seen):
    assert seen["shown"]
    assert 'strategy.name: "head-only" → "losa"' in seen["detail"]
    assert 'protocol.evaluation_subset: "testing"' in seen["detail"]
    assert 'device: "test processor"' in seen["detail"]


def test_pictures_show_and_nothing_is_loaded_or_run(seen):
    assert seen["pictures"]
    assert all(seen["pictures"])
    assert seen["loaded"] == []
    assert seen["injected"]


NASTY = (
    "<script>window.injected=1</script>",
    '"><img src=x onerror="window.injected=2">',
    "</title></style></script><svg onload=window.injected=3>",
    "<a href='javascript:window.injected=4'>x</a>",
    "</pre></details></section><iframe srcdoc='<script>parent.injected=5</script>'></iframe>",
    "&lt;script&gt;",
)
LOOKER = """
const seen = {text: document.body.textContent, injected: window.injected === undefined};
const foreign = "iframe, svg, script[src], a:not([href^='#']), [onerror], [onload], [srcdoc], "
  + "img:not([src^=data])";
seen.foreign = [...document.querySelectorAll(foreign)].map(element => element.outerHTML);
seen.scripts = document.scripts.length;
const place = document.createElement("pre");
place.id = "seen"; place.textContent = JSON.stringify(seen);
document.body.append(place);
"""


def nasty_results(path):
    """Results whose every name, label and message is markup."""
    script, image, closing, link, frame, entity = NASTY
    segments = [{"segment": [0, 1], "label": image}, {"segment": [2, 3], "label": "$\\frac{"}]
    ok = record(image, average=0.1, id="one", model=closing, settings={"mode": link, "other": [frame]})
    ok["metrics"]["ap"] = {script: {"0.3": 0.1, "0.5": 0.1}}
    ok["dataset"]["name"], ok["dataset"]["variant"] = link, entity
    ok["weights"]["name"] = script
    ok["environment"] = {"device": frame, "driver": image}
    ok["protocol"]["note"] = closing
    failed = {**ok, "id": "two", "seed": 1, "status": "error", "phase": link, "message": script}
    failed |= dict.fromkeys(("metrics", "memory", "cost", "training"))
    for file, content in (
        (ground_truth_path(path, ok), {"database": {script: {"subset": "testing", "annotations": segments}}}),
        (detections_path(path, "one"), {"results": {script: [{**each, "score": 0.5} for each in segments]}}),
    ):
        file.parent.mkdir(parents=True)
        file.write_bytes(gzip.compress(json.dumps(content).encode()))
    return folder(path, ok, failed)


def test_names_labels_and_messages_show_as_text(tmp_path):
    files = build(nasty_results(tmp_path)).files
    assert any(file.name.endswith("_timeline.png") for file in files)
    assert all(file.is_relative_to(tmp_path) for file in files)
    seen = read(tmp_path, LOOKER)
    for text in NASTY:
        assert text in seen["text"]
    assert seen["injected"]
    assert seen["foreign"] == []
    assert seen["scripts"] == 2
