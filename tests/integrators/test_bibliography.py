"""What is cited: docstrings and the file of references agree, and what is not in the file is cited all the same."""

import importlib
import inspect
import pkgutil
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import dlrt.theorems
import integrators
import problems
from integrators import BUG, INTEGRATORS, Adam, FullRank, GeoLoRA, LoRA, LoRAPlus, citation
from integrators.bibliography import entries, keys, mentions

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = entries()


def docstrings():
    """Every docstring of a class or function of the packages, and of the modules."""
    for package in (integrators, problems, dlrt.theorems):
        for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            module = importlib.import_module(info.name)
            yield module.__name__, module.__doc__
            for name, thing in vars(module).items():
                if (isinstance(thing, type) or inspect.isroutine(thing)) and thing.__module__ == module.__name__:
                    yield f"{module.__name__}.{name}", thing.__doc__ or ""


MENTIONS = [(where, *mention) for where, text in docstrings() for mention in mentions(text)]


def field(entry, name):
    match = re.search(rf"^ *{name} *= \{{(.+?)\}},?$", entry, re.MULTILINE)
    return match and match[1]


def plain(text):
    """Without the marks of TeX: ``Schotth{\\"o}fer`` is Schotthöfer."""
    return re.sub(r"[{}]", "", text.replace('{\\"o}', "ö").replace("{\\'e}", "é"))


def families(entry):
    return [plain(author).split(",")[0] for author in field(entry, "author").split(" and ")]


PROBLEMS = [mention for mention in MENTIONS if mention[0].startswith("problems.")]
OTHERS = [mention for mention in MENTIONS if mention not in PROBLEMS]


@pytest.mark.parametrize(("where", "identifier", "before"), OTHERS, ids=[f"{w}-{i}" for w, i, _ in OTHERS])
def test_docstrings_agree_with_the_file(where, identifier, before):
    """Each paper is in the file; authors and year, where the docstring has them before the identifier, are its own."""
    value = identifier if identifier.startswith("http") else identifier.split(":", 1)[1]
    [entry] = [e for e in ENTRIES.values() if value in (field(e, "doi"), field(e, "eprint"), field(e, "url"))]
    before = re.sub(r"^.*(Baseline|those) of ", "", before)
    said = re.search(r"(?:^|[.:;] )((?:[^.:;()]|et al\.)+) \((\d{4})\)", before)
    if said is None:
        assert not re.search(r"\((19|20)\d\d\)", before)
        return
    names, year = said.groups()
    assert field(entry, "year") == year
    named = names.removesuffix(" et al.").split(", ")
    assert names == "and" or named == (families(entry)[:1] if names.endswith("et al.") else families(entry))


def test_references_of_problems_agree_with_the_file():
    """They are ``A. Name, Journal volume (year) pages``."""
    assert PROBLEMS
    for where, identifier, before in PROBLEMS:
        number = identifier.split(":")[1]
        [entry] = [e for e in ENTRIES.values() if number in (field(e, "doi"), field(e, "eprint"))]
        assert all(name in before for name in families(entry)), where
        volume, year, pages = (field(entry, name) for name in ("volume", "year", "pages"))
        where_in_journal = f"{volume} ({year}) {pages.replace('--', '-')}" if pages else f"({year})"
        assert where_in_journal in before, where


def test_every_entry_is_whole_and_used():
    text = (ROOT / "integrators/references.bib").read_text(encoding="utf-8")
    assert len(ENTRIES) == text.count("@") and text.count("{") == text.count("}")
    used = {identifier for _, identifier, _ in MENTIONS}
    for key, entry in ENTRIES.items():
        assert all(field(entry, name) for name in ("title", "author", "year")), key
        has = {f"doi:{field(entry, 'doi')}", f"arXiv:{field(entry, 'eprint')}", str(field(entry, "url"))}
        assert has & used, f"nothing rests on {key}"
        first = families(entry)[0].lower().replace(" ", "").replace("ö", "oe")
        assert re.match(rf"{first}{field(entry, 'year')}[a-z]+$", key)


def test_every_method_has_references():
    assert [name for name, method in INTEGRATORS.items() if not keys(method)] == ["full-rank"]
    assert citation(FullRank()) == ""


def test_parts_and_bases_count():
    """An optimiser within a method, the class a method is derived from; each paper once."""
    assert keys(GeoLoRA()) == ["schotthoefer2025geolora"]
    assert keys(GeoLoRA(optimizer=Adam())) == ["schotthoefer2025geolora", "kingma2015adam"]
    assert keys(LoRA(optimizer=LoRAPlus())) == ["hu2022lora", "hayou2024loraplus", "kingma2015adam"]
    assert keys(BUG(), GeoLoRA(), GeoLoRA) == ["ceruti2022unconventional", "schotthoefer2025geolora"]

    @dataclass(frozen=True, kw_only=True)
    class Mine(BUG):
        """Mine. See arXiv:2101.00001, which is no reference."""

    assert keys(Mine()) == ["ceruti2022unconventional"]
    assert citation(Mine()) == ENTRIES["ceruti2022unconventional"]


def test_papers_that_are_not_in_the_file():
    class Theirs:
        """Theirs.

        References
        ----------
        Doe, Roe et al. (2031), Title: with a colon, arXiv:3101.00001; the book, doi:10.1000/(a)b-c. And
        https://example.org/page.
        """

    assert keys(Theirs) == ["arXiv:3101.00001", "doi:10.1000/ab-c", "https://example.org/page"]
    first, second, third = citation(Theirs).split("\n\n")
    assert first.splitlines()[1:4] == [
        "  author = {Doe and Roe and others},", "  year = {2031},", "  title = {Title: with a colon},"
    ]  # fmt: skip
    assert "  eprint = {3101.00001}," in first and "  doi = {10.1000/(a)b-c}" in second and "{the book}" in second
    assert "  url = {https://example.org/page}" in third


def test_names_are_refused():
    with pytest.raises(TypeError, match="not a name, got 'bug'; see INTEGRATORS"):
        citation("bug")


def test_citation_file_names_the_same_paper():
    """CITATION.cff and the README of the figures: the paper of GeoLoRA as here."""
    entry = ENTRIES["schotthoefer2025geolora"]
    cff = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"family-names: (.+)", cff) == families(entry) and f"arXiv:{field(entry, 'eprint')}" in cff
    figures = (ROOT / "paper_figures/README.md").read_text(encoding="utf-8")
    assert (
        "schotthoefer2025geolora" in figures
        and f"{{{field(entry, 'title').replace('{', '').replace('}', '')}}}" in figures
    )
