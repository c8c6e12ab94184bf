"""What a method rests on: the papers that docstrings name under References or Source, as BibTeX.

A docstring says which papers, by DOI, arXiv number or address; `references.bib` beside this file says
what they are, and so each is written once. A paper that is not in that file (of somebody else's method) gets an entry
from what the docstring says of it:
``Ceruti, Lubich (2022), title, doi:10.1007/s10543-021-00873-0``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

__all__ = ["citation", "keys"]

SECTION = re.compile(r"^ *(?:References\n *-+$|References:|Source:)", re.MULTILINE)
IDENTIFIER = re.compile(r"\b(doi:10\.\S+?|arXiv:\d{4}\.\d{4,5}|https?://\S+?)(?=[.,;)]*(?:\s|$))")


def citation(*things: Any) -> str:
    """BibTeX entries of the papers on which methods, problems or theorems rest, each once.

    Parameters
    ----------
    *things : object
        Instances, classes or functions. Their docstrings say what is cited, with those of the classes they are derived
        from, and of the parts they are made of: ``GeoLoRA(optimizer=Adam())`` rests on the paper of Adam too.

    Returns
    -------
    str
        Empty where no paper is named.

    Raises
    ------
    TypeError
        A thing is a text: names are known to the tables, ``citation(INTEGRATORS["bug"])``.

    Examples
    --------
    >>> from integrators import BUG
    >>> print(citation(BUG()).splitlines()[0])
    @article{ceruti2022unconventional,
    """
    return "\n\n".join(_found(things).values())


def keys(*things: Any) -> list[str]:
    """The keys of the entries of `citation`.

    Examples
    --------
    >>> from integrators import Adam, GeoLoRA
    >>> keys(GeoLoRA(optimizer=Adam()))
    ['schotthoefer2025geolora', 'kingma2015adam']
    """
    return list(_found(things))


def entries() -> dict[str, str]:
    """The entries of `references.bib` by their keys."""
    text = resources.files("integrators").joinpath("references.bib").read_text(encoding="utf-8")
    return {match[1]: match[0] for match in re.finditer(r"^@\w+\{([^,]+),\n.*?^\}", text, re.MULTILINE | re.DOTALL)}


def mentions(docstring: str) -> Iterator[tuple[str, str]]:
    """(identifier, what stands before it since the last one) of each paper under References or Source."""
    _, *sections = SECTION.split(docstring)
    text, start = " ".join(" ".join(sections).split()), 0
    for match in IDENTIFIER.finditer(text):
        yield match[1], text[start : match.start()].strip(" ,;.")
        start = match.end()


@functools.cache
def _by_identifier() -> dict[str, tuple[str, str]]:
    found = {}
    for key, entry in entries().items():
        for field, prefix in (("doi", "doi:"), ("eprint", "arXiv:"), ("url", "")):
            match = re.search(rf"^ *{field} *= \{{(.+?)\}},?$", entry, re.MULTILINE)
            if match:
                found[prefix + match[1]] = key, entry
    return found


def _found(things) -> dict[str, str]:
    """Entries by key, in the order of the docstrings."""
    known = _by_identifier()
    found = {}
    for thing in things:
        if isinstance(thing, str):
            raise TypeError(f"a method, problem or theorem is expected, not a name, got {thing!r}; see INTEGRATORS")
        for text in _docstrings(thing):
            for identifier, before in mentions(text):
                key, entry = known.get(identifier) or _unknown(identifier, before)
                found[key] = entry
    return found


def _docstrings(thing) -> Iterator[str]:
    """Of a thing, the classes it is derived from, and its parts."""
    kind = thing if isinstance(thing, type) or inspect.isroutine(thing) else type(thing)
    for place in inspect.getmro(kind) if isinstance(kind, type) else (kind,):
        yield vars(place).get("__doc__", "") or "" if isinstance(place, type) else place.__doc__ or ""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        for field in dataclasses.fields(thing):
            part = getattr(thing, field.name, None)
            if dataclasses.is_dataclass(part):
                yield from _docstrings(part)


def _unknown(identifier: str, before: str) -> tuple[str, str]:
    """Key and entry of a paper that is not in the file."""
    key = re.sub(r"[^\w.:/-]", "", identifier)
    kind, _, value = identifier.partition(":")
    fields = {"doi": {"doi": value}, "arXiv": {"eprint": value, "archivePrefix": "arXiv"}}.get(
        kind, {"url": identifier}
    )
    match = re.search(r"(?:^|[.:;] )((?:[^.:;()]|et al\.|\b[A-Z]\.)+) \((\d{4})\)(?:, (.+))?$", before)
    if match:
        authors, year, title = match.groups()
        authors = re.sub(r" et al\.?$", " and others", authors).replace(", ", " and ")
        fields = {"author": authors, "year": year, **({"title": title} if title else {})} | fields
    elif before:
        fields = {"note": before} | fields
    lines = ",\n".join(f"  {name} = {{{text}}}" for name, text in fields.items())
    return key, f"@misc{{{key},\n{lines}\n}}"
