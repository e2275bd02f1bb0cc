"""An explanation as HTML: a fragment for notebooks, or one file that fetches nothing."""

import re
from functools import cache
from html import escape
from importlib.resources import files

from kosa.explanation.mathml import equation, inline, number
from kosa.explanation.parts import Page, Step, Table

NUMBER = re.compile(r"-?(\d+(\.\d+)?(e[+-]?\d+)?|inf)")


def document(page: Page) -> str:
    """A whole HTML file. Its policy lets a browser load nothing but what is in it."""
    head = f"""<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(page.heading)}</title>
<style>{_style("page")}</style>"""
    return (
        f'<!doctype html>\n<html lang="{page.lang}">\n<head>\n{head}\n</head>\n'
        f"<body>\n{fragment(page)}\n</body>\n</html>\n"
    )


def fragment(page: Page) -> str:
    """The explanation alone, with its style, for a notebook's cell."""
    lines = [
        f'<div class="kosa" lang="{page.lang}">',
        f"<style>{_style('fragment')}</style>",
        f"<h1>{escape(page.heading)}</h1>",
        f'<p class="lead">{inline(page.lead)}</p>',
        *(f'<p class="summary">{inline(line)}</p>' for line in page.summary),
        f'<p class="hint">{inline(page.copying_html)}</p>',
        *(_step(step, place) for place, step in enumerate(page.steps, start=1)),
        "</div>",
    ]
    return "\n".join(lines)


@cache
def _style(name: str) -> str:
    return files("kosa.explanation").joinpath(f"{name}.css").read_text(encoding="utf-8")


def _step(step: Step, place: int) -> str:
    body = "".join(f"<p>{inline(line)}</p>\n" for line in step.text)
    body += "".join(_table(shown) if isinstance(shown, Table) else equation(shown) for shown in step.shown)
    body += "".join(f'<p class="note">{inline(line)}</p>\n' for line in step.notes)
    code = f'<pre tabindex="0"><code>{escape(step.code)}</code></pre>' if step.code else ""
    title = f'<h2><span class="number">{place}</span><span>{inline(step.title)}</span></h2>'
    return f'<section id="{step.name}">\n{title}\n{body}{code}\n</section>'


def _table(table: Table) -> str:
    head = ""
    if any(table.head):
        head = (
            "<thead><tr>"
            + "".join(f'<th scope="col">{_cell(cell)}</th>' for cell in table.head)
            + "</tr></thead>"
        )
    lines = []
    for row in table.rows:
        cells = row or ("⋮",) * len(table.head)
        lines.append("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in cells) + "</tr>")
    if table.total:
        lines.append(
            '<tr class="total">' + "".join(f"<td>{_cell(cell)}</td>" for cell in table.total) + "</tr>"
        )
    kind = "" if head else ' class="left"'
    return f'<div class="scroll"><table{kind}>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def _cell(text: str) -> str:
    """A number as MathML, anything else as prose."""
    if NUMBER.fullmatch(text):
        return f"<math>{number(text)}</math>"
    return inline(text)
