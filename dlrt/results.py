"""`results.json`: what a comparison found, in one file for other programs.

Schema, version 1. Strict JSON: what is not finite or not known is ``null``; times are in seconds. An object with::

    schema_version   1
    settings         object: options of the command that made the file, by name; origins: the package and version that
                     a method or problem of this name is from, where that is another one
    seeds            [int]: all seeds, ascending
    versions         object of str: versions of python, dlrt, numpy and scipy
    cases            [object], one for each run:
        label            str, the integrator's name
        integrator       object: class and hyper-parameters
        problem          object: class and settings; arrays by shape, dtype and digest
        step_size        number, or str for a schedule; null with step-size control
        steps            int asked for; null with step-size control
        rtol             number: relative tolerance of step-size control; null without
        atol             number: absolute one; null without
        steps_taken      int: steps up to the last record
        time             number: time reached (sum of the step sizes)
        seed             int
        start_rank       int
        status           "finished", "finished with a warning at step k: TEXT", "diverged at step k" or
                         "failed at step k: TYPE: TEXT"
        loss             number or null, at the end
        error            number or null, at the end: Frobenius distance to the reference solution
        rank             int carried at the end
        numerical_rank   int: singular values above rounding at the end
        truncation_error number: sum over all steps
        evaluations      int: field evaluations (gradient tapes)
        rejected         int: rejected steps
        wall_time        number: seconds spent in steps
        references       [str]: keys of what it rests on, in the BibTeX of `integrators.citation` and `dlrt cite`
        code             str: digest of the code that made it, see `dlrt.runs.identity`
        trajectory       str: file beside this one, see `Trajectory.load`

Readers refuse other versions. New keys may be added within a version; a key that changes its meaning makes a new one.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from pathlib import Path

from integrators.bibliography import keys

from .runs import describe, digest, set_aside, write_json
from .trajectory import core_versions

RESULTS_VERSION = 1
PICTURES = ("loss", "error", "rank", "work", "order")
"""Names of the pictures of a comparison."""
logger = logging.getLogger(__name__)


def write_results(out, results, settings):
    """Write ``out/results.json`` for the results of a sweep, atomically.

    An earlier comparison of other settings or cases that is there is moved, with its pictures, to the folder
    ``out/earlier-DIGEST``; the logger of this module says so in a warning. Its trajectories stay where they are.

    Parameters
    ----------
    out : str or Path
        Folder the sweep was given.
    results : list of Result
    settings : dict
        Options of the comparison.

    Returns
    -------
    Path
    """
    content = {
        "schema_version": RESULTS_VERSION,
        "settings": describe(settings),
        "seeds": sorted({result.case.seed for result in results}),
        "versions": core_versions(),
        "cases": [_case(result) for result in results],
    }
    path = Path(out) / "results.json"
    _set_aside(path, content)
    return write_json(path, content)


def _set_aside(path, content):
    """Move another comparison than this one away. Killed half way, it is done again by the next comparison."""
    try:
        earlier = read_results(path.parent)
    except FileNotFoundError:
        return
    except ValueError as error:
        logger.warning("%s; set aside as %s", error, set_aside(path).name)
        return
    if _what(earlier) == _what(content):
        return
    folder = path.parent / f"earlier-{_what(earlier)}"
    moved = [case | {"trajectory": f"../{case['trajectory']}"} for case in earlier["cases"]]
    write_json(folder / path.name, earlier | {"cases": moved})
    for name, kind in itertools.product(PICTURES, ("png", "pdf")):
        picture = path.with_name(f"{name}.{kind}")
        if picture.is_file():
            picture.replace(folder / picture.name)
    logger.warning("the earlier comparison in %s, of other settings, was moved to %s", path.parent, folder)


def _what(content):
    """Digest of what is compared: equal for a comparison that is made again."""
    return digest(sorted(case["trajectory"] for case in content["cases"]))  # the names tell all settings and the code


def read_results(out):
    """Read ``out/results.json``.

    Parameters
    ----------
    out : str or Path
        Folder of the comparison.

    Returns
    -------
    dict
        See the module's docstring.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no JSON or has another schema version.
    """
    path = Path(out) / "results.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or no file of results: {error}") from error
    if version != RESULTS_VERSION:
        raise ValueError(f"{path} has schema version {version}, this program reads version {RESULTS_VERSION}")
    return content


def _case(result):
    case, run = result.case, result.trajectory
    h = run.meta["step_size"]

    def last(values):
        return None if values is None or not math.isfinite(values[-1]) else float(values[-1])

    return {
        "label": case.label,
        "integrator": run.meta["integrator"],
        "problem": run.meta["problem"],
        "step_size": h if h is None or isinstance(h, float) else str(h),
        "steps": case.steps,
        "rtol": run.meta.get("control", {}).get("rtol"),
        "atol": run.meta.get("control", {}).get("atol"),
        "steps_taken": int(run.steps[-1]),
        "time": float(run.times[-1]),
        "seed": case.seed,
        "start_rank": case.rank,
        "status": run.status,
        "loss": last(run.losses),
        "error": last(run.errors),
        "rank": int(run.ranks[-1]),
        "numerical_rank": int(run.numerical_ranks[-1]),
        "truncation_error": float(run.truncation_errors.sum()),
        "evaluations": int(run.evaluations[-1]),
        "rejected": int(run.rejected[-1]),
        "wall_time": float(run.wall_times[-1]),
        "references": keys(case.integrator, case.problem),
        "code": case.identity["code"],
        "trajectory": case.file,
    }
