"""What a run is: settings as strict JSON, equal for equal ones; a digest of the code, which layout does not change."""

import functools
import importlib
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

import problems
from dlrt.runs import describe, identify
from dlrt.runs.identity import WITHOUT, package_code
from integrators import BUG, Adam, GeoLoRA, ProjectorSplitting, Tolerance

TARGET = problems.synthetic((12, 9), [4.0, 3.0, 2.0], np.random.default_rng(0))
REGRESSION = problems.MatrixRegression(TARGET)
STOCHASTIC = problems.completion(np.random.default_rng(1), TARGET, 0.8, batch_size=20)
EQUATION = problems.given_solution(np.random.default_rng(2), (12, 9), rank=3)


class Kept:
    def __init__(self, a):
        self.a = a


class Hidden:
    def __init__(self, a):
        self._b = a


def test_descriptions_tell_settings_apart():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    eye = scipy_sparse.eye_array(3).tocsr()
    things = [None, True, 1, 1.0, "1", float("nan"), 1j, [1, 2], {"a": 1}, TARGET, 2 * TARGET, eye, 2 * eye]
    things += [BUG(), GeoLoRA(), GeoLoRA(optimizer=Adam()), GeoLoRA(truncation=Tolerance(relative=0.2)), np.sin]
    things += [Kept(1), Kept(2), Hidden(1), Hidden(2), Hidden(TARGET), Kept(1).__init__, Kept(2).__init__]
    things += [np.random.default_rng(0), np.random.default_rng(1), np.array([1, "a"], dtype=object), {3, 4}]
    things += [ProjectorSplitting(), ProjectorSplitting(order=2), REGRESSION, STOCHASTIC, EQUATION, np.float32]
    texts = [json.dumps(describe(thing), allow_nan=False) for thing in things]
    assert len(set(texts)) == len(texts)
    assert json.loads(texts[-3]) == describe(STOCHASTIC)
    assert describe(np.float64(0.5)) == 0.5 and describe(np.int64(2)) == 2
    assert describe({"b", "a", "c"}) == ["a", "b", "c"]


def test_functions_without_a_name_are_told_apart():
    def constant(value):
        return lambda t: value

    functions = [lambda t: -1.0, lambda t: 1.0, lambda t, s=1: 1.0, lambda t, s=2: 1.0, constant(1), constant(2)]
    functions += [functools.partial(max, 1), functools.partial(max, 2), constant(functions[0]), constant(functions[1])]
    texts = [json.dumps(describe(function)) for function in functions]
    assert len(set(texts)) == len(texts)
    assert describe(lambda t: -1.0)["code"] == describe(lambda t: -1.0)["code"]
    assert describe(constant(3))["code"] == describe(constant(3))["code"]


def test_an_object_that_holds_itself():
    thing = Hidden(1)
    thing.me = thing
    assert describe(thing) == describe(thing)


@pytest.mark.parametrize("thing", [(i for i in [1]), sys.stdout], ids=["generator", "file"])
def test_what_cannot_be_told_apart_is_refused(thing):
    with pytest.raises(TypeError, match=r"cannot be told from others of its type .* frozen dataclass"):
        identify(problem=[Hidden(thing)])


# -- code --------------------------------------------------------------------------------------------------------------

MODULE = '''
import math
from dataclasses import dataclass
import numpy as np
from integrators import GeoLoRA
from problems import MatrixRegression

{comment}
TABLE = {{"factor": {factor}}}

def helper(h):
    return h * TABLE["factor"]

class Base(GeoLoRA):
    def scaled(self, h):
        return helper(h){extra}

@dataclass(frozen=True, kw_only=True)
class Mine(Base):
    """{doc}"""
    def stages(self, t, state, h):
        if math.isfinite(h) and h > 0:
            values = [x for x in (1, 2, 3) if x > 1]
        return (yield from super().stages(t, state, self.scaled(h)))
'''
RELAID = '''
import math
from dataclasses import dataclass
import numpy as np
from integrators import (
    GeoLoRA,
)
from problems import MatrixRegression
TABLE = {"factor": 1}
def helper(h): return (h
                       * TABLE["factor"])
class Base(GeoLoRA):

    def scaled(self, h):
        """Docstring."""
        # comment
        return helper(
            h
        )

@dataclass(
    frozen=True,
    kw_only=True,
)
class Mine(Base):

    def stages(
        self, t, state, h,
    ):
        if (
            math.isfinite(h)
            and h > 0
        ):
            values = [
                x
                for x in (1, 2, 3)
                if x > 1
            ]
        return (
            yield from super().stages(t, state, self.scaled(h))
        )
'''


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Function that writes a module of the user's, imports it, and returns the code of its method."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make(text):
        (tmp_path / "mine.py").write_text(text)
        sys.modules.pop("mine", None)
        importlib.invalidate_caches()
        return identify(integrator=importlib.import_module("mine").Mine(), problem=REGRESSION)["code"]

    yield make
    sys.modules.pop("mine", None)


def module(factor=1, comment="", extra="", doc="Method."):
    return MODULE.format(factor=factor, comment=comment, extra=extra, doc=doc)


def test_comments_docstrings_and_layout_do_not_count(code):
    texts = [module(), module(comment="# comment", doc="Another text."), RELAID]
    assert len({code(text) for text in texts}) == 1


def test_what_a_method_is_made_of_counts(code):
    assert len({code(text) for text in (module(), module(factor=2), module(extra=" / 2"))}) == 3


def test_without_a_file(monkeypatch):
    """As in a notebook's cell whose source is gone: there is bytecode alone."""

    def make(text):
        cell = types.ModuleType("cell")
        monkeypatch.setitem(sys.modules, "cell", cell)
        exec(text, cell.__dict__)
        return identify(integrator=cell.Mine(), problem=REGRESSION)["code"]

    first, same, other = map(make, (module(), module(comment="#", doc="Text."), module(factor=2)))
    assert first == same != other


def test_methods_and_problems_of_the_project_count():
    assert identify(integrator=BUG())["code"] != identify(integrator=GeoLoRA())["code"]


def test_a_method_changed_in_place_counts(monkeypatch):
    before = identify(integrator=GeoLoRA())["code"]
    monkeypatch.setattr(GeoLoRA, "stages", BUG.stages)
    assert identify(integrator=GeoLoRA())["code"] != before


def test_files_of_the_packages_count(tmp_path, monkeypatch):
    """All but those that only show results; comments apart."""
    folder = tmp_path / "integrators"
    (folder / "cli").mkdir(parents=True)

    def found(name, text):
        (folder / name).write_text(text)
        package_code.cache_clear()
        return package_code()

    spec = types.SimpleNamespace(submodule_search_locations=[folder])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    try:
        first = found("a.py", '"""Text."""\nx = 1\n')
        assert found("a.py", '"""Other text."""\n\nx = 1  # one\n') == first
        assert found(f"{WITHOUT[0]}/b.py", "y = 1") == found(WITHOUT[1], "z = 1") == first
        assert found("a.py", "x = 2") != first
    finally:
        package_code.cache_clear()


def test_other_processes_agree():
    """Whatever their hash seed."""
    text = (
        "from dlrt.runs import identify; from integrators import AdaLoRA, INTEGRATORS; import problems, numpy\n"
        "target = problems.synthetic((12, 9), [4.0, 3.0, 2.0], numpy.random.default_rng(0))\n"
        "f = lambda t: t in {'a', 'b', 'c'}\n"
        "problem = problems.MatrixRegression(target)\n"
        "print(identify(integrators=INTEGRATORS, problem=problem, f=f, names={'x', 'y', 'z'}))"
    )
    seen = set()
    for seed in "12":
        env = {**os.environ, "PYTHONHASHSEED": seed}
        seen.add(subprocess.run([sys.executable, "-c", text], env=env, check=True, capture_output=True).stdout)
    assert len(seen) == 1
