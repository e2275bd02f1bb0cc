"""The HTML of `kosa explain` in a real Chromium: drawn, light and dark, on a phone, without a word on the console."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import kosa
from kosa.explanation import explain_product

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESK = 390, 1100
# Loads the page in a frame as wide as a phone or a desk (headless windows cannot be narrower than 500 pixels) and
# writes down what was drawn. The page itself forbids scripts, so they run in this one around it.
HARNESS = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="frame" src="page.html" style="width:{width}px;height:800px;border:0"></iframe><pre id="report"></pre>
<script>
document.getElementById("frame").onload = (event) => {{
  const page = event.target.contentDocument, view = event.target.contentWindow, root = page.documentElement;
  const all = (selector) => [...page.querySelectorAll(selector)];
  const style = (selector) => view.getComputedStyle(page.querySelector(selector));
  const box = (element) => element.getBoundingClientRect();
  document.getElementById("report").textContent = "REPORT" + JSON.stringify({{
    title: page.title, lang: root.lang,
    overflow: root.scrollWidth - root.clientWidth,
    wider: all("section, .summary, h1, h2, p, pre").filter((e) => box(e).right > root.clientWidth + 1).length,
    sections: all("section").length,
    flat: all("math").filter((e) => box(e).height < 3 || box(e).width < 3).map((e) => e.textContent),
    columns: all("mtable").slice(0, 1).flatMap((e) => [...e.querySelectorAll("mtr")].map((r) => r.children.length)),
    stacked: all("#transpose mtr").slice(0, 3).map((e) => Math.round(box(e).top)),
    bracket: style("mtable").borderLeftWidth,
    paper: style(".kosa").backgroundColor, ink: style(".kosa").color, card: style("section").backgroundColor,
    font: style("pre code").fontFamily, select: style("pre").userSelect,
    text: page.body.innerText,
  }}) + "END";
}};
</script>"""
PAGES = {
    "row": lambda: kosa.explain([0, 1, 0], logits=[1, 3, 0.5]),
    "ja": lambda: kosa.explain([1, 0, 2], logits=[[1, 3, 0.5], [2, -np.inf, 1], [0, 1, 2]], lang="ja"),
    "long": lambda: kosa.explain(500, logits=3 * np.random.default_rng(0).normal(size=1000)),
    "dot": lambda: explain_product([[1, 2, 3], [4, 5, 6]], [[7, 8], [9, 10], [11, 12]]),
}


def chromium(folder, *arguments):
    """A headless Chromium with a profile of its own; what it printed, and the lines of the page's console."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, "these tests need Chromium: on Debian or Ubuntu, apt-get install chromium"
    done = subprocess.run(
        [
            found,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            "--allow-file-access-from-files",
            "--hide-scrollbars",
            f"--user-data-dir={folder / 'profile'}",
            *arguments,
        ],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.fixture(params=PAGES, ids=str)
def page(request, tmp_path):
    (tmp_path / "page.html").write_text(PAGES[request.param]().to_html(), encoding="utf-8")
    return request.param, tmp_path


def report(folder, width, *arguments):
    """What Chromium drew of page.html at that width."""
    (folder / "harness.html").write_text(HARNESS.format(width=width), encoding="utf-8")
    where = (folder / "harness.html").as_uri()
    size = "--window-size=1200,900"
    dom, said = chromium(folder, "--dump-dom", "--virtual-time-budget=5000", size, *arguments, where)
    assert said == []
    found = re.search(r"REPORT(\{.*\})END", dom.split("</iframe>")[1], re.DOTALL)
    assert found, dom[-2000:]
    text = found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(text)


def luminance(color):
    """Relative luminance of rgb(…), as WCAG defines it."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_everything_is_drawn_and_fits_the_screen(page, width):
    name, folder = page
    seen = report(folder, width)
    assert seen["title"] in seen["text"]
    assert seen["lang"] == ("ja" if name == "ja" else "en")
    assert seen["sections"] == {"row": 12, "ja": 12, "long": 12, "dot": 5}[name]
    assert seen["overflow"] == 0
    assert seen["wider"] == 0
    assert seen["flat"] == []
    assert len(set(seen["columns"])) == 1
    assert seen["bracket"] != "0px"
    assert len(set(seen["stacked"])) == len(seen["stacked"]), (
        "the rows of a column vector stand one below the other"
    )
    assert "monospace" in seen["font"]
    assert seen["select"] == "all"


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_are_both_readable(page, dark):
    _, folder = page
    seen = report(folder, DESK, f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    ink = luminance(seen["ink"])
    for ground in (luminance(seen["paper"]), luminance(seen["card"])):
        assert (ground < 0.1) == dark
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) > 7, "WCAG AAA"


def test_a_screenshot_shows_more_than_paper(page):
    _, folder = page
    (folder / "blank.html").write_text("<!doctype html><title>blank</title>", encoding="utf-8")
    sizes = {}
    for name in ("page", "blank"):
        picture = folder / f"{name}.png"
        where = (folder / f"{name}.html").as_uri()
        _, said = chromium(folder, f"--screenshot={picture}", "--window-size=900,1200", where)
        assert said == []
        content = picture.read_bytes()
        assert [int.from_bytes(content[at : at + 4]) for at in (16, 20)] == [900, 1200]
        sizes[name] = len(content)
    # A compressed picture of one colour is a few kilobytes; one of letters is many times that.
    assert sizes["page"] > 5 * sizes["blank"]


def test_the_page_may_load_nothing(tmp_path):
    page = kosa.explain(0, probs=[0.5, 0.5]).to_html()
    # A picture and a script slipped in: the page's own policy has to stop both, and Chromium says so.
    spoiled = page.replace("</body>", '<img src="page.png"><script>document.title = "run"</script></body>')
    (tmp_path / "page.html").write_text(spoiled, encoding="utf-8")
    dom, said = chromium(tmp_path, "--dump-dom", (tmp_path / "page.html").as_uri())
    assert "<title>Cross-entropy, step by step</title>" in dom
    assert len(said) == 2
    for line, what in zip(said, ("image", "script"), strict=True):
        assert what in line
        assert "violates the following Content Security Policy" in line
