"""The frame of the project: documented, installed and pinned, versions agree. (lint-imports checks the imports.)"""

import ast
import configparser
import importlib.metadata
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dlrt

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("integrators", "problems", "dlrt", "paper_figures")
COMMAND = "dlrt_command"  # a module of its own, see there
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

setup = configparser.ConfigParser()
setup.read(ROOT / "setup.cfg", encoding="utf-8")


def read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> set[str]:
    """Every absolute module a file imports, wherever in it: `from a.b import c` counts as a.b and a.b.c."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def installed(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, f"package {package} is not installed"
    return Path(spec.origin).resolve().parent


def readme_command(marker: str) -> str:
    """The line of code after <!-- marker --> in README.md (.ci/run reads it in the same way)."""
    match = re.search(rf"^<!-- {marker} -->\n+```\w*\n(.+)\n```$", read("README.md"), re.MULTILINE)
    assert match, f"README.md has no single line of code after <!-- {marker} -->"
    return match.group(1)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module_has_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name(path)} has no docstring"


def test_tests_mirror_the_tree():
    """Each module has the test file tests/<folder>/test_<module>.py, and each test file below tests/ has its module."""
    expected = {
        path.parent / f"test_{path.name}"
        for path in (module.relative_to(ROOT) for module in MODULES)
        if not path.name.startswith("__")
    }
    folders = (ROOT / "tests" / package for package in PACKAGES)
    found = {path.relative_to(ROOT / "tests") for folder in folders for path in folder.rglob("test_*.py")}
    missing, stray = sorted(map(str, expected - found)), sorted(map(str, found - expected))
    assert not missing and not stray, f"modules without tests: {missing}; tests without a module: {stray}"


@pytest.mark.parametrize("package", ["integrators", "problems", "dlrt"])
def test_import_leaves_torch_alone(package, tmp_path):
    code = f"import sys, {package}; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)


@pytest.mark.parametrize("package", PACKAGES)
def test_installed_copy_is_this_one(package):
    """The packages under test are those of this checkout with all their files, installed or used in place."""

    def files(folder: Path) -> dict[str, bytes]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    here, there = files(ROOT / package), files(installed(package))
    assert "py.typed" in here
    different = sorted(f for f in here.keys() | there.keys() if here.get(f) != there.get(f))
    assert not different, "the installed copy is out of date: delete build/ and install again, or install -e"


def test_one_version():
    assert importlib.metadata.version("dlrt") == dlrt.__version__
    assert re.findall(r"^version: (.+)$", read("CITATION.cff"), re.MULTILINE) == [dlrt.__version__]
    assert re.findall(r"^## \[(\d.*?)\]", read("CHANGELOG.md"), re.MULTILINE)[0] == dlrt.__version__


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imported_packages_are_dependencies(path):
    """Of the project; fine-tuning, the figures and the contract of integrators may use what their extra installs."""
    called = {"PIL": "pillow", "sklearn": "scikit-learn"}  # distributions with another name than their package
    extras = {"dlrt/finetune/": "finetuning", "paper_figures/": "finetuning", "dlrt/testing.py": "test"}
    extras["dlrt/runs/runner.py"] = "cluster"
    texts = [setup["options"]["install_requires"]]
    texts += [setup["options.extras_require"][extra] for part, extra in extras.items() if name(path).startswith(part)]
    declared = {canonicalize_name(Requirement(line).name) for text in texts for line in lines(text)}
    names = {module.split(".")[0] for module in imports(path)} - set(sys.stdlib_module_names) - {*PACKAGES, COMMAND}
    missing = {canonicalize_name(called.get(n, n)) for n in names} - declared
    assert not missing, "imported, but not in install_requires of setup.cfg, nor in the extra of this part"


def test_dependencies_are_pinned_within_their_ranges():
    pins = [Requirement(line) for line in lines(read("constraints.txt")) if not line.startswith("#")]
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    pinned = {canonicalize_name(pin.name): pin.specifier for pin in here}
    ranges = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    for requirement in (Requirement(line) for text in ranges for line in lines(text)):
        if requirement.name == "dlrt":  # an extra that includes another one
            continue
        assert requirement.name in pinned, f"{requirement} is missing in constraints.txt"
        (pin,) = pinned[requirement.name]
        assert requirement.specifier.contains(pin.version), f"{requirement} does not allow {pin}"


@pytest.mark.parametrize("marker", ["main command", "test command"])
def test_readme_installs_with_constraints(marker):
    command = readme_command(marker)
    assert command.count("pip install") == command.count("pip install -c constraints.txt") == 1


def test_readme_command_is_understood():
    """The main command names a command, options and values that exist (it is parsed here, not run)."""
    import typer

    from dlrt.cli import app

    arguments = shlex.split(readme_command("main command").split("/dlrt ")[1])
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context(command.name, arguments)
