"""Plug-ins: those of an installed package are known by name, broken ones cost a warning, and their code counts."""

import configparser
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlrt import plugins
from integrators import BUG, INTEGRATORS

EXAMPLE = Path(__file__).resolve().parents[1] / "example_plugin"


def install(folder, points=None, code=None, package="dlrt-example", version="1.0"):
    """As pip does it: a module and a folder of metadata beside it."""
    setup = configparser.ConfigParser()
    setup.read(EXAMPLE / "setup.cfg")
    points = dict(setup["options.entry_points"]) if points is None else points
    (folder / "dlrt_example.py").write_text((EXAMPLE / "dlrt_example.py").read_text() if code is None else code)
    info = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("".join(f"[{group}]\n{text.strip()}\n" for group, text in points.items()))


def python(folder, *arguments):
    """In a process in which what is installed in the folder is found, as if it were site-packages."""
    start = f"import sys, sysconfig; sysconfig.get_paths()\nimport site; site.addsitedir({str(folder)!r})\n"
    paths = os.pathsep.join([str(folder), *(path for path in sys.path if path)])
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", start + arguments[0], *map(str, arguments[1:])],
        env=environment, cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


PROGRAM = """
from dlrt.cli import app
for arguments in sys.argv[1:]:
    try:
        app(arguments.split(), prog_name="dlrt")
    except SystemExit as end:
        assert end.code == 0, arguments
    print("----")
"""


def test_the_example_is_known_to_all_commands(tmp_path):
    install(tmp_path)
    small = "--size 12 --rank 3 --steps 4"
    listed, compared, other, verified, cited, _ = python(
        tmp_path, PROGRAM, "list", f"compare matrix-regression --integrators halfway {small} --seeds 1 --out a",
        f"compare falling --integrators bug {small} --step-size 0.1 --out b",
        "verify structure --integrator halfway", "cite halfway",
    ).stdout.split("----\n")  # fmt: skip
    listed = " ".join(listed.split())
    assert "halfway GeoLoRA with steps of half the size (from dlrt-example 1.0)" in listed
    assert "falling Y' = -Y, a matrix that falls to zero (from dlrt-example 1.0)" in listed
    for text in (compared, verified):
        assert "halfway: from dlrt-example 1.0\n" in text
    assert "falling: from dlrt-example 1.0\n" in other and "not promised" not in other
    content = json.loads((tmp_path / "a/results.json").read_text())
    assert content["settings"]["origins"] == {"halfway": "dlrt-example 1.0"}
    assert content["cases"][0]["references"] == ["arXiv:3101.00001", "schotthoefer2025geolora"]
    assert "author = {Doe}" in cited and "schotthoefer2025geolora" in cited


IDENTITY = """
import sysconfig, dlrt.runs.identity as identity
identity._INSTALLED.add({folder!r})  # what lies there counts as installed
from dlrt.registry import INTEGRATORS, build_problem
print(*(identity.identify(x=x)["code"] for x in (INTEGRATORS["halfway"], build_problem("falling"))))
"""


def test_the_code_of_plugins_belongs_to_a_run(tmp_path):
    """Of an installed package too: data and functions of the method's and of a problem made of a plain function."""
    code = (EXAMPLE / "dlrt_example.py").read_text()
    texts = code, code.replace("SHARE = 0.5", "SHARE = 0.25"), code.replace("(-Y.U,", "(-2 * Y.U,"), "# x\n" + code
    found = []
    for i, text in enumerate(texts):
        folder = tmp_path / str(i)
        folder.mkdir()
        install(folder, code=text)
        found.append(python(folder, IDENTITY.format(folder=str(folder))).stdout.split())
    (method, problem), other_method, other_problem, same = found
    assert same == [method, problem]
    assert other_method[0] != method and other_method[1] == problem
    assert other_problem[1] != problem and other_problem[0] == method


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """Function that installs entry points in this process."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "dlrt_example", raising=False)
    yield lambda points, **options: install(tmp_path, points, **options)
    sys.modules.pop("dlrt_example", None)


BROKEN = """
from integrators import BUG, Integrator
from dataclasses import dataclass
@dataclass(frozen=True, kw_only=True)
class Needs(BUG):
    option: int
METHOD, TEXT = BUG(), "text"
def problem(size): ...
def fine(*, size=3): ...
"""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module_of_dlrt:X", "ModuleNotFoundError: No module named 'no_such_module_of_dlrt'"),
        ("dlrt_example:X", "AttributeError: "),
        ("dlrt_example:TEXT", "TypeError: expected an integrators.Integrator or its class, got 'text'"),
        ("dlrt_example:Needs", "TypeError: "),
    ],
)
def test_a_broken_method_costs_one_warning(value, message, offered, caplog):
    offered({plugins.INTEGRATORS: f"other = {value}\nsound = dlrt_example:METHOD"}, code=BROKEN)
    table = {}
    assert plugins.load(plugins.INTEGRATORS, table, plugins.method) == {"sound": "dlrt-example 1.0"}
    assert table == {"sound": BUG()}
    [warning] = caplog.messages
    assert warning.startswith(f"other of dlrt-example 1.0 (dlrt.integrators = {value}) is left out: {message}")


def test_a_module_that_ends_the_program_costs_one_warning(offered, caplog):
    offered({plugins.PROBLEMS: "p = dlrt_example:p"}, code="raise SystemExit('bye')")
    assert plugins.load(plugins.PROBLEMS, {}, plugins.problem) == {}
    assert [message.partition(": ")[2] for message in caplog.messages] == ["SystemExit: bye"]


def test_problems_are_functions_of_options(offered, caplog):
    points = "a = dlrt_example:problem\nb = dlrt_example:TEXT\nc = dlrt_example:fine"
    offered({plugins.PROBLEMS: points}, code=BROKEN)
    assert plugins.load(plugins.PROBLEMS, {}, plugins.problem) == {"c": "dlrt-example 1.0"}
    first, second = caplog.messages
    assert first.endswith("every option of a problem needs a default, size has none")
    assert second.endswith("expected a function of keyword options that returns a problem, got 'text'")


def test_names_that_exist_are_refused(offered, caplog):
    offered({plugins.INTEGRATORS: "bug = dlrt_example:METHOD\ntwice = dlrt_example:METHOD"}, code=BROKEN)
    offered({plugins.INTEGRATORS: "twice = dlrt_example:METHOD"}, code=BROKEN, package="another")
    table = dict(INTEGRATORS)
    assert plugins.load(plugins.INTEGRATORS, table, plugins.method).keys() == {"twice"}
    assert table["bug"] is INTEGRATORS["bug"]
    first, second = caplog.messages
    assert "bug of dlrt-example 1.0" in first and first.endswith("the name is taken by dlrt itself")
    assert "twice of " in second and "the name is taken by " in second and "dlrt itself" not in second
