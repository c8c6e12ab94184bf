"""The table of methods: instances whose classes are all exported."""

import dataclasses

import pytest

import integrators
from integrators import INTEGRATORS, Integrator, count_evaluations


@pytest.mark.parametrize("name", INTEGRATORS)
def test_entry(name):
    """An instance with a docstring that begins in words, which can be varied by its field names."""
    method = INTEGRATORS[name]
    assert isinstance(method, Integrator) and getattr(integrators, type(method).__name__) is type(method)
    first = type(method).__doc__.splitlines()[0]
    assert first[0].isupper() and first.endswith((".", ":"))
    assert dataclasses.replace(method, optimizer=integrators.Momentum()).optimizer == integrators.Momentum()
    assert method.evaluations is None and count_evaluations(method) >= 1


def test_every_method_is_in_the_table():
    """Each class of the package that defines stages is there."""
    found = {
        thing
        for thing in vars(integrators).values()
        if isinstance(thing, type) and issubclass(thing, Integrator) and "stages" in vars(thing) and thing != Integrator
    }
    assert found == {type(method) for method in INTEGRATORS.values()}
