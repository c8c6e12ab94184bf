"""Extension of griffe, which reads the code for mkdocstrings: docstrings become Markdown at first."""

from __future__ import annotations

from typing import Any

import griffe

from docs.rst import markdown


class Docstrings(griffe.Extension):
    """See `rst.markdown`."""

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring is not None:
            owner = obj if obj.is_class else obj.parent
            path = owner.path if owner is not None and owner.is_class else ""
            obj.docstring.value = markdown(obj.docstring.value, obj.module.path, path)
