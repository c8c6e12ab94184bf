"""What MkDocs calls: the navigation, the pages that are made, and checks of what was built.

``mkdocs build --strict`` makes the site in the folder ``site``.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for this file only; MkDocs takes it back

from mkdocs.structure.files import File, Files  # noqa: E402

from docs import built, fetched, generated  # noqa: E402

logger = logging.getLogger("mkdocs.hooks.docs")


def on_config(config: Any) -> Any:
    """The navigation is that of the files."""
    config.nav = generated.navigation(Path(config.docs_dir))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what is made."""
    for address, content in {**generated.pages(), **fetched.pages()}.items():
        if isinstance(content, Path):
            files.append(File.generated(config, address, abs_src_path=str(content)))
        else:
            files.append(File.generated(config, address, content=content))
    return files


def on_post_build(config: Any) -> None:
    """Links inside of the site, and words for every picture."""
    for fault in built.faults(Path(config.site_dir)):
        logger.warning(fault)
