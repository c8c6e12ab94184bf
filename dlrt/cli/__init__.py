"""The command line: ``dlrt list``, ``compare PROBLEM``, ``figure NAME``, ``table NAME``, ``verify``, ``train``.

One file per command; `main` puts them together, `terminal` has what they share.
"""

from .main import app

__all__ = ["app"]
