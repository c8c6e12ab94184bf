"""Docstrings as Markdown: the directives and roles of reStructuredText that this project uses, and no others."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterator

__all__ = ["markdown"]

_PIECE = re.compile(
    r":(?P<role>[a-z]+):`(?P<of>[^`]+)`"
    r"|``(?P<code>.+?)``"
    r"|`(?P<name>[^`\n]+)`"
    r"|(?P<paper>\bdoi:10\.\S+?|\barXiv:\d{4}\.\d{4,5})(?=[.,;)]*(?:\s|$))",
    re.DOTALL,
)
_DIRECTIVE = re.compile(r"( *)\.\. math::(.*)")


def markdown(docstring: str, module: str = "", owner: str = "") -> str:
    """The docstring in Markdown, with formulas between dollars; what numpydoc marks stays as it is.

    Parameters
    ----------
    docstring : str
        Without the indentation of the code.
    module, owner : str
        Paths of the module and of the class, in which names without a dot are looked up.
    """
    return "\n".join(_blocks(docstring.splitlines(), module, owner))


def _blocks(lines: list[str], module: str, owner: str) -> Iterator[str]:
    """Text between formulas and examples is converted a paragraph at a time, since roles may go over line ends."""
    text: list[str] = []

    def paragraph():
        yield from _inline("\n".join(text), module, owner).split("\n") if text else ()
        text.clear()

    while lines:
        if match := _DIRECTIVE.match(lines[0]):
            yield from paragraph()
            body, lines = _body(lines[1:], match[1])
            for formula in re.split(r"\n\s*\n", "\n".join([match[2].strip(), *body]).strip()):
                yield from textwrap.indent(f"\n$$\n{_lined_up(formula)}\n$$\n", match[1]).split("\n")
        elif re.match(r" *>>> ", lines[0]):
            yield from paragraph()
            example, lines = _until_blank(lines)
            indent = re.match(" *", example[0])[0]  # type: ignore[index]
            yield from ("", f"{indent}```pycon", *example, f"{indent}```")
        elif not lines[0].strip():
            yield from paragraph()
            yield ""
            lines = lines[1:]
        else:
            text.append(re.sub("::$", ":", lines[0]))  # what follows is indented, which is code in Markdown too
            lines = lines[1:]
    yield from paragraph()


def _body(lines: list[str], indent: str) -> tuple[list[str], list[str]]:
    """The lines of a directive, which are indented more than itself or empty, and the rest."""
    end = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith(indent + " ")), len(lines))
    return textwrap.dedent("\n".join(lines[:end])).split("\n"), lines[end:]


def _until_blank(lines: list[str]) -> tuple[list[str], list[str]]:
    end = next((i for i, line in enumerate(lines) if not line.strip()), len(lines))
    return lines[:end], lines[end:]


def _lined_up(formula: str) -> str:
    """As Sphinx does: a formula of several lines or with alignment is one block."""
    if r"\\" not in formula and "&" not in formula:
        return formula
    outside = re.sub(r"\\begin\{(\w+)\}.*?\\end\{\1\}", "", formula, flags=re.DOTALL)
    block = "aligned" if "&" in outside else "gathered"
    return f"\\begin{{{block}}}\n{formula}\n\\end{{{block}}}"


def _inline(text: str, module: str, owner: str) -> str:
    found, end = [], 0
    for match in _PIECE.finditer(text):
        found += [_plain(text[end : match.start()]), _piece(match, module, owner)]
        end = match.end()
    return "".join([*found, _plain(text[end:])])


def _plain(text: str) -> str:
    """Text as it is, where Markdown would see tags or quotations."""
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return re.sub(r"(?m)^( *)>", r"\1&gt;", text).replace("$", "&#36;")


def _piece(match: re.Match[str], module: str, owner: str) -> str:
    if match["code"] is not None:
        return f"``{match['code']}``"
    if match["name"] is not None:
        return f"`{match['name']}`"
    if match["paper"] is not None:
        kind, _, value = match["paper"].partition(":")
        site = {"doi": "https://doi.org", "arXiv": "https://arxiv.org/abs"}[kind]
        return f"[{match['paper']}]({site}/{value})"
    if match["role"] == "math":
        return f"${' '.join(match['of'].split())}$"
    path = match["of"].lstrip("~")
    shown = path.rpartition(".")[2] if match["of"].startswith("~") else path
    if "." not in path:
        path = ".".join(filter(None, [owner if match["role"] in ("meth", "attr") else module, path]))
    return f'<autoref optional identifier="{html.escape(path)}"><code>{html.escape(shown)}</code></autoref>'
