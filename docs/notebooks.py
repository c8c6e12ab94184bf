"""The notebooks as pages: their text, code and output, each picture with the words that its cell ends with.

A cell that shows a picture says below the code what is seen, in a comment that begins with ``# Picture:``.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

from docs.text import ROOT, Pages

FOLDER = ROOT / "notebooks"
_PICTURE = re.compile(r"\n*# Picture: (.*?(?:\n# .*?)*)\Z")


def pages() -> Pages:
    """A page for each notebook, and its pictures."""
    found: Pages = {}
    for file in sorted(FOLDER.glob("*.ipynb")):
        found |= page(file)
    return found


def page(file: Path) -> Pages:
    """One notebook."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    found: Pages = {}
    text = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text.append(re.sub(r"\]\((\d\d_\w+)\.ipynb", r"](\1.md", source))
            continue
        code, seen = with_words(source)
        text.append(f"```python\n{code}\n```")
        for i, output in enumerate(cell["outputs"]):
            picture = output.get("data", {}).get("image/png")
            if picture:
                name = f"{file.stem}/{cell['id']}-{i}.png"
                found[f"notebooks/{name}"] = base64.b64decode(picture)
                text.append(f"![{seen}]({name})")
            elif shown := "".join(output.get("text") or output.get("data", {}).get("text/plain", "")).rstrip():
                text.append(f'```{{.text .output title="Output"}}\n{shown}\n```')
    where = (
        f"This page is `notebooks/{file.name}`, as the tests run it; its source is `{file.with_suffix('.py').name}`."
    )
    title, *rest = text
    return {f"notebooks/{file.stem}.md": "\n\n".join([title, *rest, f"*{where}*"]) + "\n"} | found


def with_words(source: str) -> tuple[str, str]:
    """The code of a cell without the comment on its picture, and that comment."""
    match = _PICTURE.search(source)
    if match is None:
        return source.strip("\n"), ""
    return source[: match.start()].strip("\n"), " ".join(match[1].replace("\n# ", " ").split())
