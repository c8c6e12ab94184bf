"""The program: help, version, exit codes, ``python -m dlrt``."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import dlrt
from dlrt.cli import app

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


def test_usage_errors_are_one_line():
    mistakes = (
        ["compare"],
        ["compare", "rotating", "--rank", "many"],
        ["compair"],
        ["compare", "--nonsense"],
        ["--no"],
    )
    for arguments in mistakes:
        result = run(*arguments)
        [line] = result.output.splitlines()
        assert result.exit_code == 2 and line.startswith("dlrt: error: ") and line.endswith(" --help")


def test_whatever_is_raised_is_one_line(monkeypatch):
    for error in (MemoryError(), RuntimeError("bug"), KeyError("x"), RecursionError("deep"), AssertionError()):

        def broken(error=error):
            raise error

        monkeypatch.setattr("dlrt.registry.description", lambda thing, broken=broken: broken())
        result = run("list")
        [line] = result.stderr.splitlines()
        assert result.exit_code == 2 and line.startswith("dlrt: error: ")
    monkeypatch.setattr("dlrt.registry.description", lambda thing: (_ for _ in ()).throw(KeyboardInterrupt))
    result = run("list")
    assert result.exit_code == 130 and result.stderr == "Interrupted.\n"


def program(*arguments, **environment):
    command = [sys.executable, "-m", "dlrt", *arguments]
    paths = os.pathsep.join(path for path in sys.path if path)
    return command, {"env": os.environ | {"PYTHONPATH": paths} | environment, "stderr": subprocess.PIPE}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_in_other_encodings(encoding):
    for arguments in (["list"], ["compare", "--help"], ["compare", "möbius"]):
        command, options = program(*arguments, PYTHONIOENCODING=encoding)
        done = subprocess.run(command, stdout=subprocess.PIPE, **options)
        assert done.returncode == (2 if "möbius" in arguments else 0) and b"Error" not in done.stderr
        done.stdout.decode(encoding)
        assert b"mobius" in done.stderr or b"m\xf6bius" in done.stderr or done.returncode == 0


def test_a_reader_may_leave_early():
    for arguments in (["list"], ["compare", "--help"]):
        command, options = program(*arguments)
        with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
            process.stdout.close()
            assert process.stderr.read() == b"" and process.wait() in (0, 1)


def test_ctrl_c_during_start_up_is_one_line(tmp_path):
    """Sent while the first packages are imported: `sitecustomize` says when the interpreter has come so far."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'numpy':\n"
        "            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    paths = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    command = [sys.executable, "-c", "import dlrt_command; dlrt_command.main()", "list"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr == "Interrupted.\n", done.stderr


def test_alone_it_says_how_to_begin():
    """In a few lines, with commands that exist."""
    result = run()
    commands = re.findall(r"^  dlrt (.+?)  ", result.stdout, re.MULTILINE)
    assert result.exit_code == 0 and 3 <= len(commands) <= 5 and len(result.stdout.splitlines()) <= 10
    assert all(len(line) <= 100 for line in result.stdout.splitlines())
    for text in commands:
        command, arguments = typer.main.get_command(app), text.split()
        while hasattr(command, "commands"):
            command = command.commands[arguments.pop(0)]
        command.make_context(command.name, arguments)


def test_completion_in_bash(tmp_path):
    """Installed into a home of its own; the shell's function then finds commands and options."""
    command, options = program("--install-completion", HOME=str(tmp_path))
    # the shell is that of the parent process, which here may be any other
    done = subprocess.run(["bash", "-c", f"{shlex.join(command)}; exit $?"], stdout=subprocess.PIPE, **options)
    assert done.returncode == 0, done.stderr
    [script] = tmp_path.rglob("dlrt.sh")
    assert f"{script}" in (tmp_path / ".bashrc").read_text()
    binary = tmp_path / "dlrt"
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -m dlrt "$@"\n')
    binary.chmod(0o755)
    [function] = re.findall(r"^(\w+)\(\) ", script.read_text(), re.MULTILINE)
    for words, expected in (("dlrt comp", {"compare"}), ("dlrt verify --f", {"--full"})):
        ask = f"source {script}; COMP_WORDS=({words}); COMP_CWORD={words.count(' ')}; {function} {binary}"
        shown = subprocess.run(
            ["bash", "-c", ask + '; printf "%s\\n" "${COMPREPLY[@]}"'],
            env=options["env"], capture_output=True, text=True,
        )  # fmt: skip
        assert set(shown.stdout.split()) == expected, shown.stderr


def test_help_everywhere():
    commands = ["list", "compare", "figure", "table", "verify", "train", "runs", "cite", "doctor"]
    for arguments in ([], *([command] for command in commands)):
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
