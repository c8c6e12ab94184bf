"""The program: help, version, exit codes, ``python -m dlrt``."""

import os
import subprocess
import sys

from typer.testing import CliRunner

import dlrt
from dlrt.cli import app

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


def test_usage_errors_have_the_same_exit_code():
    for arguments in (["compare"], ["compare", "rotating", "--rank", "many"], ["compair"], ["compare", "--nonsense"]):
        result = run(*arguments)
        assert result.exit_code == 2 and "Traceback" not in result.output


def test_help_everywhere():
    for arguments in ([], ["list"], ["compare"], ["figure"], ["table"], ["verify"], ["train"]):
        result = runner.invoke(app, [*arguments, "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0 and "Usage" in result.output
    assert run("--version").output.strip() == f"dlrt {dlrt.__version__}"


def test_help_is_quick_and_the_module_runs(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def python(*arguments):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    slow = "'torch', 'matplotlib', 'joblib', 'scipy', 'sympy', 'problems', 'dlrt.registry'"
    assert python("-c", f"import sys, dlrt.cli; print(*(name for name in ({slow},) if name in sys.modules))") == ""
    assert "geolora" in python("-m", "dlrt", "list")
