from __future__ import annotations

import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sample_reports import empty_report, full_report, hostile_report, small_report

from mmapstore.bench import derived
from mmapstore.bench.contract import KILLED, Look
from mmapstore.bench.report_html import html, pictures

REPORTS = {"full": full_report(), "small": small_report(), "empty": empty_report(), "hostile": hostile_report()}
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Which elements a page has, with which attributes, and its text; fails on one that is closed wrongly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def pages():
    return {name: html(report) for name, report in REPORTS.items()}


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_is_whole_and_needs_nothing_else(pages, name):
    page = Page(pages[name])
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "video", "form", "base"}
    for _, attributes in page.elements:
        assert not any(attribute.startswith("on") for attribute in attributes)
        for attribute in ("src", "href", "xlink:href"):
            assert (attributes.get(attribute) or "#").startswith(("#", "data:,"))
    assert "@import" not in pages[name]
    assert not re.search(r"url\((?!#)", pages[name])
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_everything_is_escaped(pages):
    text = pages["hostile"]
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&amp;$x$" in text
    assert "<script>alert('x')</script>\"&$x$" in Page(text).text


def test_it_begins_with_what_was_measured_and_the_answer(pages):
    text, report = Page(pages["full"]).text, REPORTS["full"]
    start = text.index("Where the memory goes: strategies of feeding Keras")
    places = [text.index("Memory and time of strategies of training a Keras model on stored arrays")]
    places += [text.index(sentence) for sentence in derived.answer(report)]
    places += [text.index(head) for head in ("The figures", "The pictures", "How it was measured", "The instruments saw 446 MB")]
    places += [text.index(head) for head in ("The command of each row", "Versions")]
    assert places == sorted(places)
    assert start < places[0]


def test_every_row_is_in_a_table_with_its_command(pages):
    page, report = Page(pages["full"]), REPORTS["full"]
    for row in (*report.rows, *report.limited):
        assert derived.title(row.strategy) in page.text
        assert row.command in page.text
    emphasised = sum(tag == "tr" and attributes.get("class") == "ours" for tag, attributes in page.elements)
    assert emphasised == 15 + 2  # of the rows, under the limit


def test_cells_have_names_for_a_narrow_screen(pages):
    cells = [attributes for tag, attributes in Page(pages["small"]).elements if tag == "td" and attributes.get("class") != "remark"]
    assert {each["data-name"] for each in cells} >= {"stored as", "predicted", "private memory", "throughput", "first batch"}


def test_each_row_has_a_bar_and_each_row_with_looks_a_panel(pages):
    elements, report = Page(pages["full"]).elements, REPORTS["full"]
    looked = [row for row in report.everything if row.looks]
    assert sum(tag == "svg" for tag, _ in elements) == len(looked)
    assert sum(tag == "figcaption" for tag, _ in elements) == len(pictures(report)) == 3
    marks = [attributes["class"] for tag, attributes in elements if tag == "i"]
    assert marks.count("data") == marks.count("predicted") == len(report.rows)
    assert marks.count("measured") + marks.count("ended") == sum(row.private is not None for row in report.rows)
    assert all(attributes["aria-label"] for tag, attributes in elements if attributes.get("role") == "img")
    assert pages["full"].count("l4 8m0-8l-4 8") == sum(row.outcome == KILLED for row in report.limited)


def test_curves_and_marks_lie_where_the_figures_are():
    report = small_report()
    report.rows[0].looks = [
        Look(0.0, 0, 0, 0),
        Look(5.0, 1_000_000_000, 0, 2_000_000_000),
        Look(10.0, 500_000_000, 0, 1_000_000_000),
    ]
    report.rows[0].private, report.rows[0].predicted = 1_000_000_000, 10_000_000
    bars, panels = pictures(small_report(rows=report.rows[:1]))
    # 1 MB to 10 GB are four decades
    assert 'class="measured" style="left:75.00%"' in bars and 'class="predicted" style="left:25.00%"' in bars
    # 2.2 GB high
    assert 'd="M0.0 100.0L50.0 54.5L100.0 77.3" stroke="var(--other' in panels


def test_an_empty_report_says_so(pages):
    text = Page(pages["empty"]).text
    assert "a machine that is not named" in text
    assert "The pictures" not in text
    assert "were not calibrated in this run" in text


def test_a_page_is_small_enough_to_send(pages):
    assert len(pages["full"]) < 1_000_000


# --- in a browser -------------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--enable-logging=stderr"),
    *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=5000"),
]
# A page of that width, which tells how wide its content is: browsers refuse to make their windows as narrow as a phone.
MEASURE = """<!doctype html><link rel="icon" href="data:,"><iframe id="page" src="/" width="{width}" height="800"></iframe><script>
document.getElementById("page").onload = event => {{
  const page = event.target.contentDocument, width = name => Math.round(page.querySelector(name).getBoundingClientRect().width);
  document.title = [page.documentElement.scrollWidth, page.documentElement.clientWidth, width("svg"), width(".track")].join(" ");
}};</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 400, 760, 1200])
@pytest.mark.parametrize("name", ["full", "hostile"])
def test_a_browser_shows_it_without_errors_requests_or_scrolling_sideways(pages, tmp_path, name, width):
    if BROWSER is None:
        pytest.skip("no Chromium or Chrome is installed")
    asked: list[str] = []

    class Serve(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = (MEASURE.format(width=width) if self.path == "/measure" else pages[name]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = f"http://127.0.0.1:{server.server_port}/measure"
        command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path}", "--window-size=1400,1000", "--dump-dom", page]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    finally:
        server.shutdown()
        server.server_close()
    found = re.search(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-2000:]
    content, inside, panel, track = map(int, found.groups())
    assert content <= inside <= width
    assert 120 <= panel <= inside and 120 <= track <= inside
    assert sorted(asked) == ["/", "/measure"]
    assert "CONSOLE" not in done.stderr, done.stderr
