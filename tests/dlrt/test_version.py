"""There is one version: that of the package, of its metadata, and of what it records."""

from importlib import metadata

import dlrt
from dlrt.runs import versions
from dlrt.version import __version__


def test_one_version():
    assert __version__ == dlrt.__version__ == metadata.version("dlrt") == versions()["dlrt"]
