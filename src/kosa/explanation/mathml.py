"""Formulas of the small notation, and matrices, as MathML Core, which browsers draw without any script."""

import re
from html import escape

from kosa.explanation.parts import Equation, Matrix, gaps

# A name of several letters is upright in MathML by itself; these also stand apart from their argument.
FUNCTIONS = {"log", "exp", "max", "softmax"}
TOKEN = re.compile(
    r"(?P<number>\d+(?:\.\d+)?)|(?P<name>[A-Za-z]+)|_(?P<sub>[A-Za-z0-9,]+)|\^(?P<power>[A-Za-z0-9]+)"
    r"|(?P<transpose>ᵀ)|(?P<open>\()|(?P<close>\))|(?P<space>\s+)|(?P<sign>.)"
)
CODE = re.compile(r"`([^`]+)`")
SIGNS = {"Σ": "∑", "-": "−", "·": "⋅"}
NAMES = {"∞": "<mi>∞</mi>", "∂": "<mi>∂</mi>"}


def inline(text: str) -> str:
    """Prose with its formulas between dollar signs as `<math>`, names between backticks as `<code>`."""
    pieces = [
        f"<math>{formula(piece)}</math>" if place % 2 else CODE.sub(r"<code>\1</code>", escape(piece))
        for place, piece in enumerate(text.split("$"))
    ]
    return "".join(pieces)


def formula(text: str) -> str:
    """A formula as MathML, without the surrounding `<math>`."""
    # One list of atoms for each parenthesis that is open, so that a transpose takes all of what it closes.
    stack: list[list[str]] = [[]]
    for token in TOKEN.finditer(text):
        kind, value = token.lastgroup, token[token.lastgroup or 0]
        atoms = stack[-1]
        if kind == "number":
            atoms.append(f"<mn>{value}</mn>")
        elif kind == "name":
            apart = value in FUNCTIONS and text.startswith(" ", token.end())
            atoms.append(f"<mi>{value}</mi>" + ('<mspace width="0.17em"/>' if apart else ""))
        elif kind == "sub":
            atoms.append(f"<msub>{atoms.pop()}{_script(value)}</msub>")
        elif kind == "power":
            atoms.append(f"<msup>{atoms.pop()}{_script(value)}</msup>")
        elif kind == "transpose":
            atoms.append(f'<msup>{atoms.pop()}<mi mathvariant="normal">T</mi></msup>')
        elif kind == "open":
            stack.append([])
        elif kind == "close":
            inner = "".join(stack.pop())
            stack[-1].append(f"<mrow><mo>(</mo>{inner}<mo>)</mo></mrow>")
        elif kind == "sign":
            atoms.append(NAMES.get(value) or _sign(value, text.startswith(" ", token.end())))
    (atoms,) = stack
    return "".join(atoms)


def equation(shown: Equation) -> str:
    """Formulas and matrices in one line, their shapes after it."""
    body = "".join(
        matrix(part) if isinstance(part, Matrix) else f"<mrow>{formula(part)}</mrow>" for part in shown.parts
    )
    shapes = f'<span class="shape">{escape(shown.shapes)}</span>' if shown.shapes else ""
    drawn = f'<div class="scroll"><math display="block">{body}</math></div>'
    return f'<div class="equation">{drawn}{shapes}</div>'


def matrix(shown: Matrix) -> str:
    """A table, bracketed by the style sheet; marked cells have the class `marked`."""
    cells = shown.cells
    place = {index: i for i, index in enumerate(shown.rows)}
    across = {index: j for j, index in enumerate(shown.columns)}
    columns = gaps(shown.columns, shown.shape[1])
    lines = []
    for row in gaps(shown.rows, shown.shape[0]):
        line = []
        for column in columns:
            if row is None:
                line.append("<mtd><mo>⋮</mo></mtd>")
            elif column is None:
                line.append("<mtd><mo>…</mo></mtd>")
            else:
                mark = ' class="marked"' if (row, column) in shown.marked else ""
                line.append(f"<mtd{mark}>{number(cells[place[row]][across[column]])}</mtd>")
        lines.append(f"<mtr>{''.join(line)}</mtr>")
    return f"<mtable>{''.join(lines)}</mtable>"


def number(text: str) -> str:
    """A number as MathML: a true minus sign, ∞, and powers of ten instead of e."""
    sign, size = ("<mo>−</mo>", text[1:]) if text.startswith("-") else ("", text)
    if size == "inf":
        return f"<mrow>{sign}<mi>∞</mi></mrow>"
    mantissa, e, exponent = size.partition("e")
    if e:
        power = str(int(exponent)).replace("-", "−")
        return f"<mrow>{sign}<mn>{mantissa}</mn><mo>×</mo><msup><mn>10</mn><mn>{power}</mn></msup></mrow>"
    return f"<mrow>{sign}<mn>{size}</mn></mrow>"


def _sign(sign: str, apart: bool) -> str:
    """An operator. In 2×3 · 3×2 the shapes hold together, and what multiplies them stands apart."""
    space = {"×": "0.1em", "·": "0.45em" if apart else ""}.get(sign, "")
    spaces = f' lspace="{space}" rspace="{space}"' if space else ""
    return f"<mo{spaces}>{escape(SIGNS.get(sign, sign))}</mo>"


def _script(text: str) -> str:
    """A sub- or superscript; each letter is a variable of its own."""
    atoms = re.findall(r"\d+|[A-Za-z]|,", text)
    tags = ("mn" if atom.isdigit() else "mo" if atom == "," else "mi" for atom in atoms)
    return (
        "<mrow>"
        + "".join(f"<{tag}>{atom}</{tag}>" for tag, atom in zip(tags, atoms, strict=True))
        + "</mrow>"
    )
