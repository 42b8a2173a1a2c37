"""The page in a real browser: it sorts and filters, opens a row's configuration, and loads nothing."""

import html
import json
import re
import shutil
import subprocess

import pytest
from made_records import folder, record

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


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    if BROWSER is None:
        pytest.skip("there is no Chromium here")
    path = tmp_path_factory.mktemp("page")
    nasty = "x<script>window.injected=1</script>"
    rows = (
        record(),
        record("losa", average=0.4),
        record("a-strategy", average=0.35),
        record(nasty, average=0.1, id="nasty"),
    )
    build(folder(path, *rows))
    text = (path / "index.html").read_text()
    page = path / "read.html"
    page.write_text(text.replace("</body>", f"<script>window.onload = () => {{{READER}}}</script></body>"))
    command = [BROWSER, *OPTIONS, f"--user-data-dir={path / 'profile'}", "--dump-dom", page.as_uri()]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="seen">(.*?)</pre>', process.stdout, re.DOTALL)
    assert found, process.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


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
