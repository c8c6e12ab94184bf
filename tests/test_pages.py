"""The pages of docs/ and the README: their examples run, their commands are understood, their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from dlrt.cli import app
from dlrt.registry import PROBLEMS
from dlrt.theorems import THEOREMS
from integrators import INTEGRATORS
from paper_figures.catalogue import FIGURES, TABLES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / "README.md", *PAGES]
ARGUMENTS = {
    "compare": {*PROBLEMS},
    "verify": {*THEOREMS, "factor-methods", "one-frame"},
    "figure": {*FIGURES},
    "table": {*TABLES},
    "cite": {*INTEGRATORS, *PROBLEMS, *THEOREMS},
}
"""What the first argument of a command may be."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """The words of each `dlrt` command in blocks of shell and between backticks, but for those with placeholders."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    inline = re.findall(r"`((?:\.venv/bin/)?dlrt [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = re.findall(r"(?:^|/|&& )(dlrt [^\n]+)", blocks, re.MULTILINE) + inline
    words = [shlex.split(command, comments=True)[1:] for command in found]
    return [w for w in words if not any(re.fullmatch("[A-Z]+(?:\\.\\.\\.)?", word) for word in w)]


def in_site(address: str) -> bool:
    """Whether the site has this page: one of docs/, one made from the code or a notebook, or a text of the project."""
    folder, _, file = address.rpartition("/")
    stem = file.removesuffix(".md")
    sources = {
        "methods": ROOT / "integrators" / f"{stem}.py",
        "problems": ROOT / "problems" / f"{stem}.py",
        "notebooks": ROOT / "notebooks" / f"{stem}.py",
        "theorems": THEOREMS.get(stem),
    }
    made = folder in sources and (stem == "index" or (isinstance(sources[folder], Path) and sources[folder].is_file()))
    made = made or (folder == "theorems" and stem in THEOREMS)
    copied = address.startswith(("paper_figures/", "benchmarks/", "CONTRIBUTING.md")) and (ROOT / address).is_file()
    return (DOCS / address).is_file() or made or copied or address == "gallery.md"


def anchors(text: str) -> set[str]:
    """Those of the headings, as mkdocs makes them."""
    found = re.findall(r"^#+ +(.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in found}


def test_quoted_differences_are_those_of_the_table():
    """Each ``d ± s`` quoted from a table of fine-tuning is a rounded one of paper_figures/README.md."""
    minus = str.maketrans("−", "-")
    measured = re.findall(r"([+-]?0\.\d{4}) ± (0\.\d{4})", read(ROOT / "paper_figures/README.md").translate(minus))
    table = {tuple(map(float, pair)) for pair in measured}
    quoted = {}
    for path in PAGES:
        parts = re.findall(r"<!-- numbers of `dlrt table \w+` begin.*?-->(.*?)<!--", read(path), re.DOTALL)
        for pair in re.findall(r"([+-]?0\.\d{3}) ± (0\.\d{3})", "".join(parts).translate(minus)):
            quoted[name(path), " ± ".join(pair)] = tuple(map(float, pair))
    assert len(quoted) > 10
    wrong = [
        where for where, q in quoted.items() if not any(max(abs(q[0] - d), abs(q[1] - s)) < 6e-4 for d, s in table)
    ]
    assert not wrong, f"not in the table of paper_figures/README.md: {wrong}"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_examples(path, tmp_path, monkeypatch):
    """The Python of a page, block after block; its assertions say what the page says."""
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    for block in re.findall(r"```python\n(.*?)```", read(path), re.DOTALL):
        exec(compile(block, name(path), "exec"), names)


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_commands(path):
    """Each command, its options and its first argument exist (they are parsed here, not run)."""
    for words in commands(read(path)):
        command, rest = typer.main.get_command(app), list(words)
        while hasattr(command, "commands") and rest:
            group, word = command, rest.pop(0)
            assert word in group.commands or word.startswith("--"), f"dlrt {shlex.join(words)}"
            command = group.commands.get(word)
            if command is None:
                break
        if command is None or hasattr(command, "commands"):
            continue
        if rest:  # the name of a command alone is no call of it
            command.make_context(command.name, list(rest))
        if rest and command.name in ARGUMENTS and not rest[0].startswith("-"):
            assert rest[0] in ARGUMENTS[command.name], f"dlrt {shlex.join(words)}"


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_links(path):
    """Links within the project lead to a page and a heading, and pictures have words."""
    text = re.sub(r"```.*?```", "", read(path), flags=re.DOTALL)
    for words, address in re.findall(r"(!?\[[^\]]*)\]\(([^)\s]+)\)", text):
        assert not words.startswith("![") or len(words) > 20, f"the picture {address} has no words"
        if "://" in address:
            continue
        target, _, heading = address.partition("#")
        place = (path.parent / target).resolve() if target else path
        if path.parent == ROOT:
            assert place.exists(), address
        else:
            assert in_site(place.relative_to(DOCS).as_posix()), address
        if heading and place.is_file():
            assert heading in anchors(read(place)), address
