"""The pages that are made: one for each method, problem and theorem; every link in them leads to a page."""

import posixpath
import re

import pytest

from dlrt.registry import ORIGINS, PROBLEMS
from dlrt.theorems import THEOREMS
from docs import api, built, gallery, generated, methods, notebooks
from docs.text import ROOT
from integrators import INTEGRATORS
from paper_figures.catalogue import PICTURES

WRITTEN = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|!?\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)")
OWN = {name: method for name, method in INTEGRATORS.items() if name not in ORIGINS["integrator"]}


@pytest.fixture(scope="module")
def pages():
    return generated.pages()


@pytest.fixture(scope="module")
def texts(pages):
    return {address: text for address, text in pages.items() if address.endswith(".md")}


def prose(text):
    """Without code."""
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", OWN)
def test_every_method_has_a_page(name, texts):
    page = texts[methods.address(OWN[name])]
    kind = type(OWN[name])
    assert f"| {name} |" in page and f"::: {kind.__module__}.{kind.__name__}\n" in page
    assert all(f"theorems/{theorem}.md" in page for theorem in THEOREMS)
    assert "In use" in page and ("@" in page or name == "full-rank")
    assert f"[{name}](../{methods.address(OWN[name])})" in texts["methods/index.md"]


def test_what_was_measured_is_about_the_method(texts):
    page = texts["methods/geolora.md"]
    assert "Table 1, measured" in page and "GeoLoRA, spectral" in page and "| LoRA" not in page
    assert "LoRA (PEFT) |" in texts["methods/lora.md"]


@pytest.mark.parametrize("method", {type(m): m for m in OWN.values()}.values(), ids=lambda m: type(m).__name__)
def test_the_example_of_a_method_runs(method, capsys):
    exec(methods.example(method), {})
    status, value = capsys.readouterr().out.split()
    assert status == "finished" and float(value) >= 0


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name not in ORIGINS["problem"]])
def test_every_problem_has_a_section(name, texts):
    (address,) = re.findall(rf"\[{name}\]\(\.\./(problems/\w+\.md)#{name}\)", texts["problems/index.md"])
    assert f"\n## {name}\n" in texts[address] and f"::: {address[:-3].replace('/', '.')}\n" in texts[address]


@pytest.mark.parametrize("name", THEOREMS)
def test_every_theorem_has_a_page_with_a_certificate(name, texts):
    page = texts[f"theorems/{name}.md"]
    assert THEOREMS[name].statement in page and "**holds**. Each inequality" in page
    assert all(f"[{method}](" in page for method in OWN)


def test_every_module_is_in_the_reference_or_has_a_page(texts):
    linked = {name for text in texts.values() for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
    for package in api.PACKAGES:
        for file in (ROOT / package.replace(".", "/")).glob("[!_]*.py"):
            assert any(name.startswith(f"{package}.{file.stem}") for name in linked), file


def test_nothing_is_documented_twice(texts):
    linked = [name for text in texts.values() for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]
    assert len(linked) == len(set(linked))
    assert not [(a, b) for a in linked for b in linked if a.startswith(b + ".")]


def test_links_and_pictures(pages, texts):
    """Links lead to pages, and pictures say what they show; for written pages `mkdocs build` looks."""
    found = []
    for address, text in texts.items():
        for mark, words, target in LINK.findall(prose(text)):
            goal = posixpath.normpath(posixpath.join(posixpath.dirname(address), target.partition("#")[0]))
            if not re.match("https?:|#", target) and goal not in pages and goal not in WRITTEN:
                found.append(f"{address}: {target} leads nowhere")
            if mark and not words:
                found.append(f"{address}: {target} has no words")
    assert not found


def test_navigation_has_every_page(tmp_path, texts):
    (tmp_path / "index.md").write_text("# Home")

    def places(entries):
        for entry in entries:
            if isinstance(entry, str):
                yield entry
            else:
                (inside,) = entry.values()
                yield from places([inside] if isinstance(inside, str) else inside)

    found = list(places(generated.navigation(tmp_path)))
    assert sorted(found) == sorted([*texts, "index.md"])
    assert found[0] == "index.md"


def test_every_committed_picture_is_in_the_gallery(texts):
    stems = {path.stem for path in (ROOT / "paper_figures" / "reference").glob("*.png")}
    assert stems == PICTURES.keys() == {posixpath.basename(p.address)[:-4] for p in gallery.of_figures()}
    assert all(len(words) > 80 for words in PICTURES.values())
    assert all(p.words in texts["gallery.md"] for p in [*gallery.of_figures(), *gallery.of_notebooks()])


def test_small_pictures_are_small(pages):
    small = [pages[p.small] for p in gallery.of_figures()]
    assert all(data.startswith(b"\x89PNG") and len(data) < 100_000 for data in small)


def test_words_of_a_picture_end_its_cell():
    assert notebooks.with_words("plt.show()\n# Picture: a line\n# and more.") == ("plt.show()", "a line and more.")
    assert notebooks.with_words("# Picture: no\nx = 1") == ("# Picture: no\nx = 1", "")


def test_faults_of_a_built_site(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="x"></h1><a href="b.html#y"></a><a href="#x"></a><a href="c.html"></a><a href=".">up</a>'
        '<a href="https://far.away/"></a><script src="https://far.away/s.js"></script><img src="p.png" alt=" ">'
        '<img src="p.png" alt="words">'
    )
    (tmp_path / "b.html").write_text('<link rel="stylesheet" href="https://far.away/s.css"><img src="p.png">')
    (tmp_path / "p.png").write_bytes(b"")
    found = sorted(built.faults(tmp_path))
    assert [fault.split(" ")[:2] for fault in found] == [
        ["a.html:", "."],
        ["a.html:", "b.html#y"],
        ["a.html:", "c.html"],
        ["a.html:", "https://far.away/s.js"],
        ["a.html:", "p.png"],
        ["b.html:", "https://far.away/s.css"],
        ["b.html:", "p.png"],
    ]
