"""``python -m dlrt`` is the command ``dlrt``."""

from dlrt_command import main

main()
