"""The page holds everything, loads nothing, and reads no text as markup."""

import html.parser

from made_records import folder, record

from bench.report import build
from bench.report.page import Section, page


class Reader(html.parser.HTMLParser):
    """Collects tags with their attributes, and the text of cells."""

    def __init__(self):
        super().__init__()
        self.tags, self.cells, self.open = [], [], False

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open = tag == "td"
        if self.open:
            self.cells.append("")

    def handle_endtag(self, tag):
        self.open = self.open and tag != "td"

    def handle_data(self, data):
        if self.open:
            self.cells[-1] += data


def read(text):
    reader = Reader()
    reader.feed(text)
    return reader


def test_text_is_never_markup():
    nasty = '<script>alert("1")</script><img src=x onerror=alert(1)>&amp;'
    text = page([Section(nasty, (nasty,), (nasty, "b"), [(nasty, "'\"")])])
    reader = read(text)
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert not [tag for tag, _ in reader.tags if tag == "img"]
    assert reader.cells == [nasty, "'\""]


def test_nothing_is_loaded(tmp_path):
    build(folder(tmp_path, record(), record("losa <b>", average=0.4)))
    text = (tmp_path / "index.html").read_text()
    reader = read(text)
    sources = [value for _, attributes in reader.tags for name, value in attributes.items() if name == "src"]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    links = [value for _, attributes in reader.tags for name, value in attributes.items() if name == "href"]
    assert all(link.startswith("#part") for link in links)
    assert "http:" not in text
    assert "https:" not in text
    assert "losa <b>" in reader.cells
