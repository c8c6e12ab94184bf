"""``python -m dlrt`` is the command ``dlrt``."""

from .cli import app

app(prog_name="dlrt")
