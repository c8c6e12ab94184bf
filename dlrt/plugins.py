"""Methods and problems of other packages, found by the entry points that these declare.

A package names its methods and problems in its metadata, for setuptools in setup.cfg::

    [options.entry_points]
    dlrt.integrators =
        halfway = dlrt_example:Halfway
    dlrt.problems =
        falling = dlrt_example:falling

A method is an `integrators.Integrator`, or its class, whose defaults are then taken. A problem is a function of keyword
options, see `dlrt.registry.PROBLEMS`. They are loaded with `dlrt.registry`. What cannot be loaded, or has a name that
is known already, is left out with a warning of the logger of this module.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from integrators import Integrator

__all__ = ["INTEGRATORS", "PROBLEMS", "load", "method", "packages", "problem"]

INTEGRATORS, PROBLEMS = "dlrt.integrators", "dlrt.problems"
"""The groups of entry points."""
logger = logging.getLogger(__name__)


def load(group: str, table: dict[str, Any], check: Callable[[Any], Any]) -> dict[str, str]:
    """Add to a table what other packages offer under a group of entry points.

    Parameters
    ----------
    group : str
    table : dict
        Changed in place; names that are in it stay as they are.
    check : function
        From what a package names to the entry of the table, or an exception that says what is wrong with it.

    Returns
    -------
    dict of str
        The names added, and where each comes from: ``"dlrt-example 1.0"``.
    """
    origins: dict[str, str] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.module
        try:
            if point.name in table:
                raise ValueError(f"the name is taken by {origins.get(point.name, 'dlrt itself')}")
            table[point.name] = check(point.load())
        except (Exception, SystemExit) as error:  # whatever a module of another package does when it is imported
            what = f"{type(error).__name__}: {error}"
            logger.warning("%s of %s (%s = %s) is left out: %s", point.name, origin, group, point.value, what)
        else:
            origins[point.name] = origin
    return origins


def method(thing: Any) -> Integrator:
    """A method from what an entry point names: an instance, or a class."""
    made = thing() if isinstance(thing, type) else thing
    if not isinstance(made, Integrator):
        raise TypeError(f"expected an integrators.Integrator or its class, got {thing!r}")
    return made


def problem(thing: Any) -> Callable[..., Any]:
    """A problem from what an entry point names: a function of keyword options."""
    if not callable(thing):
        raise TypeError(f"expected a function of keyword options that returns a problem, got {thing!r}")
    needed = [p.name for p in inspect.signature(thing).parameters.values() if p.default is p.empty]
    if needed:
        raise TypeError(f"every option of a problem needs a default, {', '.join(needed)} has none")
    return thing


@functools.cache
def packages() -> frozenset[str]:
    """Top-level modules that offer methods or problems, loaded or not."""
    points = (point for group in (INTEGRATORS, PROBLEMS) for point in entry_points(group=group))
    return frozenset(point.module.partition(".")[0] for point in points)
