"""The command ``dlrt``: outside the packages, so that Ctrl-C is answered with one line from their first import on."""

import sys


def main() -> None:
    """Import the program and run it."""
    try:
        from dlrt.cli import app

        app(prog_name="dlrt")
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
