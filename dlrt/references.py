"""Computed reference solutions on disk, so that this is done once and not in every run of the program.

They are in the folder ``references`` of the cache (`dlrt.runs.cache`), one file for each time, in a folder for each
problem that is named by what determines the numbers: its settings and the code of the project.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from problems.numerical import Computed

from .runs import cache, digest, identify, write_atomically

__all__ = ["References", "kept"]

logger = logging.getLogger(__name__)
Some = TypeVar("Some")


@dataclass(frozen=True)
class References:
    """The solutions of one problem in a folder. A file is the SHA-256 of what follows, and an array in numpy's format.

    Parameters
    ----------
    folder : Path
        Made when missing.
    shape : (int, int)
        Of the problem.
    """

    folder: Path
    shape: tuple[int, int]

    def path(self, t: float) -> Path:
        """The file of a time, which has all of its digits in its name."""
        return self.folder / f"{float(t).hex()}.npy"

    def find(self, t: float) -> np.ndarray | None:
        """The solution at time t; None where there is none, or a damaged one, of which the logger warns."""
        try:
            content = self.path(t).read_bytes()
        except OSError:
            return None
        checksum, array = content[:32], content[32:]
        if hashlib.sha256(array).digest() != checksum:
            logger.warning("the reference solution in %s is damaged: computed anew", self.path(t))
            return None
        solution = np.load(io.BytesIO(array), allow_pickle=False)
        return solution if solution.shape == tuple(self.shape) else None

    def add(self, t: float, solution: np.ndarray) -> None:
        """Write the file; a warning where that is not possible."""
        array = io.BytesIO()
        np.save(array, solution, allow_pickle=False)
        content = array.getvalue()
        try:
            write_atomically(self.path(t), lambda file: file.write(hashlib.sha256(content).digest() + content))
        except OSError as error:
            logger.warning("a reference solution could not be kept in %s: %s", self.folder, error)


def kept(problem: Some) -> Some:
    """The problem, whose reference solutions are kept in the cache where they have to be computed.

    Those of the same problem that other code made are removed.
    """
    if isinstance(problem, Computed):
        made: dict[str, Any] = identify(problem=problem)
        settings = f"{problem.name}-{digest(made['settings'], size=8)}"
        folder = cache() / "references" / f"{settings}-{made['code']}"
        for other in folder.parent.glob(f"{settings}-*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        problem.keep_solutions(References(folder, problem.shape))
    return problem
