"""An explanation as text for a terminal, of any width and any encoding."""

import re
import textwrap
import unicodedata

from kosa.explanation.parts import Equation, Matrix, Page, Table, gaps

# What stands for a sign that the console lacks. The layout is made of the stand-ins: columns still line up.
STAND_INS = {
    "−": "-", "×": "x", "·": "*", "∘": ".*", "ᵀ": "^T", "Σ": "sum", "∂": "d", "∞": "inf", "≠": "!=",
    "…": "...", "⋮": ":", "“": '"', "”": '"',
    "⎡": "[", "⎢": "[", "⎣": "[", "⎤": "]", "⎥": "]", "⎦": "]",
}  # fmt: skip
INDENT = "    "
ENGLISH_ONLY = "(This console cannot show Japanese: in English instead.)"
# Japanese may break after a wide character and the closing signs that follow it, never inside a formula.
WIDE, CLOSING = r"\u3000-\u9fff\uff00-\uffef", "[、。，．）」』：ー？]*"
PIECE = re.compile(f"[{WIDE}]{CLOSING}|[^{WIDE}]+{CLOSING}")


def encodable(text: str, encoding: str) -> bool:
    """Whether a console of this encoding can show `text`."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def plain(text: str, encoding: str) -> str:
    """`text` with a stand-in for each sign that the encoding lacks, "?" where there is none."""
    return "".join(sign if encodable(sign, encoding) else STAND_INS.get(sign, "?") for sign in text)


def render(page: Page, width: int, encoding: str) -> str:
    """The page as text. All but the code is indented, so the lines at the left margin are the code."""
    return "\n".join(_Text(width, encoding).page(page)) + "\n"


class _Text:
    """Lays out one page in a width of `width` columns."""

    def __init__(self, width: int, encoding: str) -> None:
        self.width = max(width, 40)
        self.encoding = encoding

    def page(self, page: Page) -> list[str]:
        lines = ["  " + self.sign(page.heading), "  " + self.sign("=") * _width(self.sign(page.heading)), ""]
        lines += self.prose(page.lead) + self.prose(page.copying)
        for number, step in enumerate(page.steps, start=1):
            title = _wrapped(f"{number}. {self.sign(step.title)}", self.width - 2)
            rule = "-" * max(_width(line) for line in title)
            lines += ["", *("  " + line for line in (*title, rule))]
            for paragraph in step.text:
                lines += self.prose(paragraph)
            for shown in step.shown:
                lines.append("")
                lines += self.table(shown) if isinstance(shown, Table) else self.equation(shown)
            for paragraph in step.notes:
                lines += ["", *self.prose(paragraph)]
            if step.code:
                lines += ["", *step.code.split("\n")]
        lines.append("")
        for line in page.summary:
            lines += self.prose(line)
        return [line.rstrip() for line in lines]

    def sign(self, text: str) -> str:
        """Text with its dollar signs off and its signs made showable."""
        return plain(text.replace("$", ""), self.encoding)

    def prose(self, text: str) -> list[str]:
        # Formulas of reasonable length stay on one line: their spaces do not break.
        pieces = [self.sign(piece) for piece in text.split("$")]
        pieces[1::2] = [piece.replace(" ", "\xa0") if len(piece) < 40 else piece for piece in pieces[1::2]]
        lines = _filled("".join(pieces), self.width - len(INDENT))
        return [INDENT + line.replace("\xa0", " ") for line in lines]

    def table(self, table: Table) -> list[str]:
        every = [table.head, *(row for row in table.rows if row), *([table.total] if table.total else [])]
        texts = [[self.sign(cell) for cell in row] for row in every]
        widths = [max(_width(row[column]) for row in texts) for column in range(len(table.head))]
        rule = "  ".join("-" * size for size in widths)
        gap = "  ".join(self.sign("⋮").rjust(size) for size in widths)

        def line(row: tuple[str, ...]) -> str:
            return "  ".join(_right(self.sign(cell), size) for cell, size in zip(row, widths, strict=True))

        lines = [line(table.head), rule] if any(table.head) else []
        lines += [gap if row is None else line(row) for row in table.rows]
        if table.total:
            lines += [rule, line(table.total)]
        return [INDENT + text for text in lines]

    def equation(self, equation: Equation) -> list[str]:
        """Parts side by side; what does not fit goes to the next line."""
        room = self.width - len(INDENT)
        shapes = self.sign(f"   {equation.shapes}" if equation.shapes else "")
        beside = room - len(shapes) - 1
        blocks = [
            self.matrix(part, beside) if isinstance(part, Matrix) else [self.sign(part)]
            for part in equation.parts
        ]
        bands: list[list[list[str]]] = [[]]
        used = 0
        for block in (*blocks, [shapes]):
            size = len(block[0]) + 1
            if bands[-1] and used + size > room + 1:
                bands.append([])
                used = 0
            bands[-1].append(block)
            used += size
        lines: list[str] = []
        for band in bands:
            lines += [INDENT + line for line in _side_by_side(band)]
        return lines

    def matrix(self, matrix: Matrix, room: int) -> list[str]:
        """The block of a matrix, less the middle columns for which there is no room."""
        shown = list(range(len(matrix.columns)))
        block = self.block(matrix, shown)
        while len(block[0]) > room and len(shown) > 3:
            inner = shown[1:-1]
            spare = [j for j in inner if matrix.columns[j] not in matrix.kept] or inner
            shown.remove(min(spare, key=lambda j: abs(j - len(matrix.columns) / 2)))
            block = self.block(matrix, shown)
        return block

    def block(self, matrix: Matrix, shown: list[int]) -> list[str]:
        star = bool(matrix.marked)
        cells = matrix.cells
        columns = gaps(tuple(matrix.columns[j] for j in shown), matrix.shape[1])
        grid: list[list[str]] = []
        place = {index: i for i, index in enumerate(matrix.rows)}
        across = {index: j for j, index in enumerate(matrix.columns)}
        for row in gaps(matrix.rows, matrix.shape[0]):
            line = []
            for column in columns:
                if row is None:
                    cell = self.sign("⋮")
                elif column is None:
                    cell = self.sign("…")
                else:
                    cell = cells[place[row]][across[column]]
                    if star:
                        cell += "*" if (row, column) in matrix.marked else " "
                line.append(cell)
            grid.append(line)
        widths = [max(len(line[j]) for line in grid) for j in range(len(columns))]
        body = ["  ".join(cell.rjust(size) for cell, size in zip(line, widths, strict=True)) for line in grid]
        if len(body) == 1:
            return [f"[ {body[0]} ]"]
        edges = [("⎡", "⎤"), *[("⎢", "⎥")] * (len(body) - 2), ("⎣", "⎦")]
        return [
            self.sign(left) + " " + line + " " + self.sign(right)
            for (left, right), line in zip(edges, body, strict=True)
        ]


def _side_by_side(blocks: list[list[str]]) -> list[str]:
    """Blocks in one band, each centred against the highest."""
    height = max(len(block) for block in blocks)
    columns = []
    for block in blocks:
        above = (height - len(block)) // 2
        blank = " " * len(block[0])
        columns.append([blank] * above + block + [blank] * (height - len(block) - above))
    return [" ".join(line) for line in zip(*columns, strict=True)]


def _width(text: str) -> int:
    """Columns on a terminal: wide East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def _right(text: str, width: int) -> str:
    """`text` at the right end of `width` columns."""
    return " " * (width - _width(text)) + text


def _filled(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, somewhat less if that spares a last line of a word or two."""
    tries = [_wrapped(text, narrower) for narrower in range(width, width - 12, -2)]
    return next((lines for lines in tries if len(lines) == 1 or _width(lines[-1]) > 12), tries[0])


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns."""
    if _width(text) == len(text):
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
    lines, line = [], ""
    for piece in PIECE.findall(text):
        if _width(line + piece) > width and line:
            lines.append(line.rstrip())
            line = piece.lstrip()
        else:
            line += piece
    return [*lines, line]
