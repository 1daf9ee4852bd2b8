"""The page in a real Chromium: no errors, charts drawn, tables sortable, nothing cut in print."""

import html as entities
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeskin.report import html, inputs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PDFTOTEXT = shutil.which("pdftotext")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; Debian: apt-get install chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# What a test wants to know of the drawn page, left in an attribute for --dump-dom to bring back.
PROBE = """<script>
addEventListener("load", () => {
  const round = (r) => [r.left, r.top, r.right, r.bottom].map((x) => Math.round(10 * x) / 10);
  const apart = (a, b) => a[2] <= b[0] + 1 || b[2] <= a[0] + 1 || a[3] <= b[1] + 1 || b[3] <= a[1] + 1;
  const charts = [...document.querySelectorAll("svg.chart")].map((svg) => {
    const frame = svg.getBoundingClientRect();
    const words = [...svg.querySelectorAll("text")].map((t) => [t.textContent, round(t.getBoundingClientRect())]);
    const marks = [...svg.querySelectorAll("polygon, polyline, circle, path, rect, line")];
    const style = (mark) => getComputedStyle(mark);
    return {
      name: svg.getAttribute("aria-label"), frame: round(frame), marks: marks.length,
      unseen: marks.filter((m) => style(m).stroke === "none" && style(m).fill === "none").length,
      empty: marks.filter((m) => { const b = m.getBBox(); return b.width + b.height === 0; }).length,
      outside: words.filter(([, w]) => w[0] < frame.left - 1 || w[2] > frame.right + 1 || w[1] < frame.top - 1 ||
        w[3] > frame.bottom + 1).map(([text]) => text),
      overlapping: words.flatMap(([text, a], i) => words.slice(i + 1).filter(([, b]) => !apart(a, b))
        .map(([other]) => [text, other])),
    };
  });
  const table = document.querySelector("table[data-key=models]");
  const column = [...table.tHead.rows[0].cells].find((cell) => cell.dataset.key === "decision-p50");
  const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
  const steps = [[column.getAttribute("aria-sort"), names()]];
  for (let i = 0; i < 3; i++) {
    column.querySelector("button").click();
    steps.push([column.getAttribute("aria-sort"), names()]);
  }
  const buttons = [...document.querySelectorAll("thead button")];
  document.documentElement.dataset.probe = JSON.stringify({
    width: innerWidth, wide: document.documentElement.scrollWidth, charts, steps,
    paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
    buttons: buttons.length, unreachable: buttons.filter((b) => b.tabIndex !== 0 || !b.textContent.trim()).length,
    sortable: document.querySelectorAll("table[data-key]").length,
  });
});
</script>"""


def browse(tmp: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One run of the browser with a profile of its own."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def errors_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the page wrote to the console, and what its own recorder caught."""
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    caught = re.search(r'<html[^>]* data-errors="([^"]*)"', done.stdout)
    return console + (json.loads(entities.unescape(caught[1])) if caught else [])


@pytest.fixture
def page(given_rich: inputs.ReportInput, tmp_path: Path) -> Iterator[Path]:
    yield html.render(given_rich, tmp_path / "report.html")
    shutil.rmtree(tmp_path / "profile", ignore_errors=True)  # some ten megabytes a run


@pytest.fixture
def proven(given_proven: inputs.ReportInput, tmp_path: Path) -> Iterator[Path]:
    yield html.render(given_proven, tmp_path / "report.html")
    shutil.rmtree(tmp_path / "profile", ignore_errors=True)


def probe(page: Path, width: int, *arguments: str) -> dict[str, Any]:
    """The page with the probe in it, in a frame of that width: a window has no less than 500 pixels.

    The page's policy goes, which would refuse a second script.
    """
    text, removed = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    assert removed == 1
    inner = entities.escape(text.replace("</body>", PROBE + "</body>"))
    outer = page.with_name("outer.html")
    copy = "document.documentElement.dataset.probe = this.contentDocument.documentElement.dataset.probe"
    outer.write_text(
        f'<!doctype html><meta name="color-scheme" content="light dark"><body style="margin: 0">'
        f'<iframe style="width: {width}px; height: 900px; border: 0" onload="{copy}" srcdoc="{inner}"></iframe>'
    )
    done = browse(page.parent, "--dump-dom", "--hide-scrollbars", *arguments, outer.as_uri())
    found = re.search(r'<html[^>]* data-probe="([^"]*)"', done.stdout)
    assert found, done.stderr
    result: dict[str, Any] = json.loads(entities.unescape(found[1]))
    return result


def test_it_opens_without_errors_and_sorts_as_the_address_asks(page: Path) -> None:
    address = f"{page.as_uri()}#sort=latency:p50:desc"
    done = browse(page.parent, "--enable-logging=stderr", "--v=0", "--dump-dom", address)
    assert errors_of(done) == []
    assert re.search(r'<html[^>]* data-ready="yes"', done.stdout)
    table = done.stdout.partition('data-key="latency"')[2].partition("</table>")[0]
    heading = re.search(r'<th[^>]*data-key="p50"[^>]*>', table)
    assert heading
    assert 'aria-sort="descending"' in heading[0]
    assert table.count("aria-sort") == 1
    single = table.partition("<tbody>")[2].partition("</tbody>")[0]
    assert "Back to back" in single.partition("</tr>")[0]  # the head of the group stays at its top
    p50 = [float(row) for row in re.findall(r"<td>(?:INT8|FP32)</td><td>([\d.]+)</td>", single)]
    assert p50 == sorted(p50, reverse=True)
    assert p50[0] > p50[-1]


def test_a_fault_of_the_page_is_seen(page: Path) -> None:
    spoilt = page.with_name("spoilt.html")
    spoilt.write_text(page.read_text().replace("</body>", "<script>fault()</script></body>"))
    done = browse(page.parent, "--enable-logging=stderr", "--v=0", "--dump-dom", spoilt.as_uri())
    found = errors_of(done)
    assert "refused: script-src-elem" in found
    assert any("Content Security Policy" in line for line in found)


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, True)])
def test_charts_are_drawn_inside_the_page_and_headings_sort(page: Path, width: int, dark: bool) -> None:
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    found = probe(page, width, "--window-size=1400,1000", scheme)
    assert found["width"] == found["wide"] == width  # the page itself never scrolls sideways
    paper, ink = (sum(int(x) for x in re.findall(r"\d+", found[name])[:3]) for name in ("paper", "ink"))
    assert (paper < 150 < 500 < ink) if dark else (ink < 150 < 500 < paper)
    # of each bundle three of accuracy, six of latency, throughput, cold start; two Pareto, two of the training
    assert len(found["charts"]) == 2 * 11 + 4
    for chart in found["charts"]:
        left, top, right, bottom = chart["frame"]
        assert 0 <= left < right <= width, chart["name"]
        assert right - left >= 300, chart["name"]
        assert bottom - top >= 100, chart["name"]
        assert chart["marks"] >= 4, chart["name"]
        assert (chart["empty"], chart["unseen"], chart["outside"], chart["overlapping"]) == (0, 0, [], []), chart
    models = ["tiny INT8", "tiny FP32", "tiny-two INT8", "tiny-two FP32"]
    fast = ["tiny INT8", "tiny-two INT8", "tiny FP32", "tiny-two FP32"]
    slow = ["tiny FP32", "tiny-two FP32", "tiny INT8", "tiny-two INT8"]
    assert found["steps"] == [[None, models], ["ascending", fast], ["descending", slow], [None, models]]
    assert found["buttons"] > 3 * found["sortable"] > 0
    assert found["unreachable"] == 0


def test_it_reads_without_scripts(page: Path) -> None:
    barred = page.with_name("barred.html")
    text, changed = re.subn(r"script-src [^;]*;", "script-src &#39;none&#39;;", page.read_text())
    assert changed == 1
    barred.write_text(text)
    done = browse(page.parent, "--dump-dom", barred.as_uri())
    assert not re.search(r"<html[^>]* data-ready", done.stdout)
    shown, body = (text.partition("<body>")[2] for text in (done.stdout, page.read_text()))
    assert "<button" not in shown
    for kind in ("<tr", "<svg", "<td", "<th ", "<dd>"):
        assert shown.count(kind) == body.count(kind) > 0


def test_it_prints_without_cutting_a_table(page: Path) -> None:
    pdf = page.with_suffix(".pdf")
    browse(page.parent, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.as_uri())
    data = pdf.read_bytes()
    assert data.startswith(b"%PDF-")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 40
    if PDFTOTEXT is None:
        pytest.skip("the PDF has pages; to read them takes pdftotext; Debian: apt-get install poppler-utils")
    done = subprocess.run([PDFTOTEXT, "-bbox", pdf, "-"], capture_output=True, text=True, timeout=60, check=True)
    size = re.search(r'<page width="([\d.]+)" height="([\d.]+)"', done.stdout)
    assert size
    assert (round(float(size[1])), round(float(size[2]))) == (595, 842)  # A4, in points
    words = re.findall(r'<word xMin="(-?[\d.]+)" yMin="-?[\d.]+" xMax="([\d.]+)" yMax="[\d.]+">([^<]*)<', done.stdout)
    assert [word for word in words if float(word[0]) < 20 or float(word[1]) > 575] == []
    pages = [" ".join(re.findall(r">([^<>]+)</word>", one)) for one in done.stdout.split("<page ")[1:]]
    for one in pages:  # a table that fits on a page is not torn from its head
        assert one.count("referral for melanoma") == 2 * one.count("Decisions that flip")
        assert one.count("diagnosis macro-F1") == 2 * one.count("Difference, paired")
    printed = " ".join(pages)
    for last in ("[2.00, 2.00]", "70.5", "61.5 J", "+22.5", "source and rails", "Phantom data"):
        assert last in printed, last


def test_a_proven_bundle_opens_without_errors_and_unfolds_what_the_address_asks(proven: Path) -> None:
    done = browse(proven.parent, "--enable-logging=stderr", "--v=0", "--dump-dom", proven.as_uri())
    assert errors_of(done) == []  # pictures lie in the page and its policy lets them
    assert len(re.findall(r"<details>", done.stdout)) == 4
    assert "<details open" not in done.stdout
    address = f"{proven.as_uri()}#sort=gate-groups:difference:asc"
    done = browse(proven.parent, "--enable-logging=stderr", "--v=0", "--dump-dom", address)
    assert errors_of(done) == []
    assert done.stdout.count("<details open") == 1
    groups = done.stdout.partition("<details open")[2].partition("</table>")[0]
    assert 'data-key="gate-groups"' in groups
    bodies = [body.partition("</tbody>")[0] for body in groups.split("<tbody>")[1:]]
    for body in (body for body in bodies if "</tr>" in body):
        found = [float(value) for value in re.findall(r"<td>([+-]\d\.\d{4}) \[", body)]
        assert found == sorted(found)
        assert len(found) == 7


@pytest.mark.parametrize(("width", "dark"), [(1200, True), (380, False)])
def test_charts_of_the_evidence_are_drawn_inside_the_page(proven: Path, width: int, dark: bool) -> None:
    found = probe(proven, width, "--window-size=1400,1000", f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    assert found["width"] == found["wide"] == width
    drawn = [chart for chart in found["charts"] if not chart["name"].startswith(("Latency", "Throughput"))]
    named = [chart["name"] for chart in drawn]
    for name in (
        "Gate: differences with margins",
        "Precision map, clinical + dermoscopic",
        "Precision map, dermoscopic alone",
        "Search: latency against divergence",
        "Sensitivity of layers",
        "INT8 against higher precision",
    ):
        assert named.count(name) == 1, name
    for chart in drawn:
        assert (chart["empty"], chart["unseen"], chart["outside"], chart["overlapping"]) == (0, 0, [], []), chart


def test_on_paper_everything_is_unfolded(proven: Path) -> None:
    if PDFTOTEXT is None:
        pytest.skip("to read a PDF takes pdftotext; Debian: apt-get install poppler-utils")
    pdf = proven.with_suffix(".pdf")
    browse(proven.parent, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", proven.as_uri())
    done = subprocess.run([PDFTOTEXT, "-bbox", pdf, "-"], capture_output=True, text=True, timeout=60, check=True)
    words = re.findall(r'<word xMin="(-?[\d.]+)" yMin="-?[\d.]+" xMax="([\d.]+)" yMax="[\d.]+">([^<]*)<', done.stdout)
    assert [word for word in words if float(word[0]) < 20 or float(word[1]) > 575] == []
    printed = " ".join(word for _, _, word in words)
    for last in ("skin_tone_class", "NOT GATED: tiny.", "1.084", f"{0xA5:016x}", "network.encoder.blocks.5.2"):
        assert last in printed, last


@pytest.mark.parametrize(
    ("which", "width", "dark"), [("given_kit", 1200, True), ("given_kit", 380, False), ("given_engine", 380, False)]
)
def test_a_kit_and_an_engine_are_drawn_inside_the_page(
    which: str, width: int, dark: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    page = html.render(request.getfixturevalue(which), tmp_path / "report.html")
    done = browse(page.parent, "--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri())
    assert errors_of(done) == []
    found = probe(page, width, "--window-size=1400,1000", f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    shutil.rmtree(tmp_path / "profile", ignore_errors=True)
    assert found["width"] == found["wide"] == width
    named = [chart["name"] for chart in found["charts"]]
    charts = {
        "given_kit": ["Emulation, role test"],
        "given_engine": ["Precision map, clinical + dermoscopic", "INT8 against higher precision"],
    }[which]
    for name in (*charts, "Gate: differences with margins", "Search: planned cost against divergence"):
        assert named.count(name) == 1, name
    for chart in found["charts"]:
        assert (chart["empty"], chart["unseen"], chart["outside"], chart["overlapping"]) == (0, 0, [], []), chart
    assert found["unreachable"] == 0
