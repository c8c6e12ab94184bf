"""The command line: ``dlrt list``, ``compare PROBLEM``, ``run EQUATION``, ``figure NAME``, ``verify``, ``train``, ...

One file per command; `main` puts them together, `options` and `terminal` have what they share.
"""

from .main import app

__all__ = ["app"]
