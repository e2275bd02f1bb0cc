"""The report in a real Chromium: drawn on a phone and a desk, light and dark, on paper, without a word on the console."""

import json
import re

import pytest
from report_samples import compared, hostile, infinite, sample
from test_browser_explain import chromium, luminance

pytestmark = pytest.mark.browser

PHONE, DESK = 320, 1280
# As for the explanation: the page forbids scripts, so what was drawn is read off by this one around it.
HARNESS = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="frame" src="page.html" style="width:{width}px;height:900px;border:0"></iframe><pre id="report"></pre>
<script>
document.getElementById("frame").onload = (event) => {{
  const page = event.target.contentDocument, view = event.target.contentWindow, root = page.documentElement;
  page.querySelectorAll("details").forEach((e) => {{ e.open = true; }});
  const all = (selector) => [...page.querySelectorAll(selector)];
  const style = (element) => view.getComputedStyle(element);
  const box = (element) => element.getBoundingClientRect();
  const shown = (element) => element.getClientRects().length > 0 && style(element).clipPath === "none";
  const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1
    || a.bottom <= b.top + 3 || b.bottom <= a.top + 3;
  const meeting = [];
  for (const plot of all("svg").filter(shown)) {{
    const words = [...plot.querySelectorAll("text")];
    words.forEach((a, i) => words.slice(i + 1).forEach((b) => {{
      if (!apart(box(a), box(b))) meeting.push([a.textContent, b.textContent]);
    }}));
  }}
  const inks = new Set(all("h1, p, td, th, dd, dt, summary, svg text").filter(shown)
    .map((e) => e instanceof view.SVGElement ? style(e).fill : style(e).color));
  document.getElementById("report").textContent = "REPORT" + JSON.stringify({{
    title: page.title, lang: root.lang,
    overflow: root.scrollWidth - root.clientWidth,
    wider: all("section, h1, h2, p, dd, td, th, summary, svg, svg text, svg rect").filter(shown)
      .filter((e) => box(e).right > root.clientWidth + 0.5 || box(e).left < -0.5).map((e) => e.outerHTML.slice(0, 200)),
    meeting, letters: Math.min(...all("svg text").filter(shown).map((e) => box(e).height)),
    plots: all("svg.plot").filter(shown).length, sections: all("section").length,
    bars: all("svg.cell rect").filter((e) => box(e).width > 0 && box(e).height > 4).length,
    lines: all("table.bars tbody tr").length,
    paper: style(page.querySelector(".kosa-report")).backgroundColor, inks: [...inks],
    loaded: view.performance.getEntriesByType("resource").length,
    focus: all("summary").filter((e) => {{ e.focus(); return page.activeElement === e; }}).length,
  }}) + "END";
}};
</script>"""
SAMPLES = {"usual": sample, "infinite": infinite, "hostile": hostile, "compared": compared}


@pytest.fixture(params=[(made, lang) for made in SAMPLES for lang in ("en", "ja")], ids="-".join)
def page(request, tmp_path):
    made, lang = request.param
    SAMPLES[made]().report(tmp_path / "page.html", lang, title="predictions.parquet")
    return made, lang, tmp_path


def seen(folder, width, dark=False):
    """What Chromium drew of page.html at that width."""
    (folder / "harness.html").write_text(HARNESS.format(width=width), encoding="utf-8")
    dom, said = chromium(
        folder,
        "--dump-dom",
        "--virtual-time-budget=5000",
        "--window-size=1400,950",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        (folder / "harness.html").as_uri(),
    )
    assert said == []
    found = re.search(r"REPORT(\{.*\})END", dom.split("</iframe>")[1], re.DOTALL)
    assert found, dom[-2000:]
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.mark.parametrize(("width", "dark"), [(PHONE, False), (DESK, True)])
def test_all_is_drawn_and_legible_and_nothing_overlaps(page, width, dark):
    made, lang, folder = page
    found = seen(folder, width, dark)
    assert found["title"] == "predictions.parquet · Kosa"
    assert found["lang"] == lang
    assert found["wider"] == []
    assert found["overflow"] == 0
    assert found["meeting"] == []
    assert found["letters"] >= 11
    assert found["plots"] == 2
    assert found["sections"] == (7 if made == "compared" else 6)
    assert found["bars"] >= found["lines"] - 4  # a share of 0.2 % has a bar, too; of 0 it has none
    assert found["focus"] == 2
    assert found["loaded"] == 0
    ground = luminance(found["paper"])
    assert (ground < 0.1) == dark
    for ink in map(luminance, found["inks"]):
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) > 4.5, "WCAG AA"


def test_on_paper_it_is_black_on_white(tmp_path):
    sample().report(tmp_path / "page.html")
    where = (tmp_path / "page.html").as_uri()
    dark = "--blink-settings=preferredColorScheme=0"
    _, said = chromium(
        tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer", dark, where
    )
    assert said == []
    paper = (tmp_path / "page.pdf").read_bytes()
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 6


def test_the_page_may_load_nothing(tmp_path):
    spoiled = (
        sample()
        .to_html()
        .replace("</body>", '<img src="x.png"><script>document.title = "run"</script></body>')
    )
    (tmp_path / "page.html").write_text(spoiled, encoding="utf-8")
    dom, said = chromium(tmp_path, "--dump-dom", (tmp_path / "page.html").as_uri())
    assert "<title>run</title>" not in dom
    assert len(said) == 2
    assert all("violates the following Content Security Policy" in line for line in said)
