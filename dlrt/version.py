"""The version of this package, where everything below `dlrt` can read it."""

__version__ = "0.2.0"
