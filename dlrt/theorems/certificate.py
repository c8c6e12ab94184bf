"""What a check leaves behind: inequalities ``left <= right + slack``, their hypotheses and constants, and a verdict."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..layout import aligned
from ..runs import write_json

SCHEMA_VERSION = 1
HOLDS, VIOLATED, NOT_APPLICABLE = "holds", "violated", "not applicable"


@dataclass(frozen=True)
class Hypothesis:
    """A condition of a theorem, whether it is met, and how that was found out."""

    name: str
    met: bool
    detail: str = ""


@dataclass(frozen=True)
class Constant:
    """A number that enters a bound, and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True)
class Series:
    """One inequality ``left <= right + slack`` at each value of a parameter (a step, a step size, a singular value).

    Parameters
    ----------
    name : str
        What is compared.
    parameter : str
        Name of the parameter.
    values, left, right, slack : tuple of float
        Parameter values and the two sides. The slack allows for rounding (or for the stated resolution of a
        measurement) and for nothing else. An equality ``a = b`` has left ``|a - b|`` and right 0.
    left_label, right_label : str
        What the two sides are.
    equality : bool
        Whether the right side is 0 by the statement: left is a deviation, compared with the slack alone.
    """

    name: str
    parameter: str
    values: tuple[float, ...]
    left: tuple[float, ...]
    right: tuple[float, ...]
    slack: tuple[float, ...]
    left_label: str = "left"
    right_label: str = "right"
    equality: bool = False

    @classmethod
    def of(cls, name, parameter, rows, left_label="left", right_label="right") -> Series:
        """A series from rows ``(value, left, right, slack)``; an equality where the right side is called "0"."""
        columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
        values, left, right, slack = (tuple(float(x) for x in c) for c in columns)
        return cls(name, parameter, values, left, right, slack, left_label, right_label, right_label == "0")

    @property
    def met(self) -> np.ndarray:
        """Whether the inequality is met, for each value; never where a side is NaN or the left side is infinite."""
        left, right, slack = (np.array(x, dtype=float) for x in (self.left, self.right, self.slack))
        with np.errstate(invalid="ignore"):
            return np.isfinite(left) & (left <= right + slack)

    @property
    def ratio(self) -> np.ndarray:
        """left / right, or left / slack for an equality; infinite where the right side is negative but left is not."""
        left, right, slack = (np.array(x, dtype=float) for x in (self.left, self.right, self.slack))
        below = slack if self.equality else right
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = left / below
        ratio = np.where((below <= 0) & (left > below), np.inf, ratio)
        return np.where((left == 0) & (below == 0), 0.0, ratio)

    @property
    def excess(self) -> np.ndarray:
        """left / (right + slack), by which values are ranked: above 1 where violated; infinite where no number."""
        left, right, slack = (np.array(x, dtype=float) for x in (self.left, self.right, self.slack))
        below = right + slack
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = np.where(below > 0, left / below, np.where(self.met, 0.0, np.inf))
        return np.where(np.isnan(excess), np.inf, excess)

    @property
    def worst(self) -> int:
        """Index of the largest excess (0 for an empty series)."""
        return int(np.argmax(self.excess)) if self.values else 0


@dataclass(frozen=True)
class Certificate:
    """The outcome of a check of one theorem for one integrator on one problem.

    Parameters
    ----------
    theorem : str
        Name of the theorem, as on the command line.
    statement, source : str
        What it says and where it is from.
    integrator, problem : str
        What it was checked for.
    hypotheses : tuple of Hypothesis
    series : tuple of Series
        The inequalities, the main one first.
    constants : dict of Constant
        Every number that enters the bounds, with its source.
    promised : bool
        Whether theory promises the statement for this method. A violation is a failure where it is promised and a
        finding where it is not.
    promise : str
        Why it is, or is not, promised.
    notes : tuple of str
        Findings beside the verdict.
    """

    theorem: str
    statement: str
    source: str
    integrator: str
    problem: str
    hypotheses: tuple[Hypothesis, ...] = ()
    series: tuple[Series, ...] = ()
    constants: dict[str, Constant] = field(default_factory=dict)
    promised: bool = True
    promise: str = ""
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """``holds``, ``violated``, or ``not applicable`` (a hypothesis is not met, nothing to compare)."""
        if not all(h.met for h in self.hypotheses) or not any(s.values for s in self.series):
            return NOT_APPLICABLE
        return HOLDS if all(bool(np.all(s.met)) for s in self.series) else VIOLATED

    @property
    def failed(self) -> bool:
        """Violated although promised."""
        return self.promised and self.verdict == VIOLATED

    @property
    def reason(self) -> str:
        """Why the theorem does not apply, or where it is violated; empty where it holds."""
        if self.verdict == NOT_APPLICABLE:
            unmet = [f"{h.name}: {h.detail}" if h.detail else h.name for h in self.hypotheses if not h.met]
            return "; ".join(unmet) or "nothing to compare"
        if self.verdict == HOLDS:
            return ""
        s, i = self.worst
        bound = f"slack {s.slack[i]:.4g}" if s.equality else f"{s.right_label} {s.right[i]:.4g}"
        return f"{s.name} at {s.parameter} = {s.values[i]:.4g}: {s.left_label} {s.left[i]:.4g} > {bound}"

    @property
    def worst(self) -> tuple[Series, int]:
        """The series and the index with the largest excess over its bound."""
        filled = [s for s in self.series if s.values]
        if not filled:
            raise ValueError(f"the certificate of {self.theorem} has no values")
        s = max(filled, key=lambda s: s.excess[s.worst])
        return s, s.worst

    @property
    def tightest(self) -> float:
        """Largest ratio left / right over the inequalities (equalities apart): 1 is sharp, near 0 would be vacuous."""
        ratios = [r for s in self.series if not s.equality for r in s.ratio if math.isfinite(r)]
        return max(ratios, default=0.0)

    def line(self) -> str:
        """Theorem, measured, bound, ratio and verdict in one line."""
        if self.verdict == NOT_APPLICABLE:
            return f"{self.theorem}: {NOT_APPLICABLE} ({self.reason})"
        s, i = self.worst
        bound = f"slack {s.slack[i]:.4g}" if s.equality else f"{s.right_label} {s.right[i]:.4g}"
        return (
            f"{self.theorem}: {s.name}: {s.left_label} {s.left[i]:.4g}, {bound}, ratio {s.ratio[i]:.4g}, {self.verdict}"
        )

    # -- files -----------------------------------------------------------------------------------------------------

    def to_json(self) -> dict:
        """The certificate as JSON values; numbers that are not finite become strings."""
        return {
            "schema_version": SCHEMA_VERSION,
            "theorem": self.theorem,
            "statement": self.statement,
            "source": self.source,
            "integrator": self.integrator,
            "problem": self.problem,
            "verdict": self.verdict,
            "promised": bool(self.promised),
            "promise": self.promise,
            "reason": self.reason,
            "hypotheses": [{"name": h.name, "met": bool(h.met), "detail": h.detail} for h in self.hypotheses],
            "constants": {k: {"value": _plain(c.value), "source": c.source} for k, c in self.constants.items()},
            "series": [
                {
                    "name": s.name,
                    "parameter": s.parameter,
                    "left_label": s.left_label,
                    "right_label": s.right_label,
                    "equality": s.equality,
                    **{key: _plain(getattr(s, key)) for key in ("values", "left", "right", "slack")},
                    "ratio": _plain(s.ratio),
                }
                for s in self.series
            ],
            "notes": list(self.notes),
        }

    def save(self, path: str | Path) -> Path:
        """Write strict JSON, in one step: a reader never sees half a file."""
        return write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            The file is damaged or of another schema version.
        """
        try:
            c = json.loads(Path(path).read_text(encoding="utf-8"))
            version = c["schema_version"]
            if version != SCHEMA_VERSION:
                raise ValueError(f"schema version {version}, this program reads version {SCHEMA_VERSION}")
            return cls(
                **{k: c[k] for k in ("theorem", "statement", "source", "integrator", "problem", "promised", "promise")},
                hypotheses=tuple(Hypothesis(**h) for h in c["hypotheses"]),
                constants={k: Constant(float(v["value"]), v["source"]) for k, v in c["constants"].items()},
                series=tuple(
                    Series(
                        name=s["name"],
                        parameter=s["parameter"],
                        values=_numbers(s["values"]),
                        left=_numbers(s["left"]),
                        right=_numbers(s["right"]),
                        slack=_numbers(s["slack"]),
                        left_label=s["left_label"],
                        right_label=s["right_label"],
                        equality=s["equality"],
                    )
                    for s in c["series"]
                ),
                notes=tuple(c["notes"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged or no certificate: {error}") from error

    # -- views -----------------------------------------------------------------------------------------------------

    def table(self, rows: int = 10, width: int = 80) -> str:
        """All inequalities as aligned text, at most ``rows`` evenly spread values of each and the worst one."""
        shown: list = []
        for s in self.series:
            shown.append(s.name)
            chosen = {*np.linspace(0, len(s.values) - 1, rows).astype(int).tolist(), s.worst} if s.values else ()
            for i in sorted(chosen):
                numbers = {"left": s.left[i], "right": s.right[i], "slack": s.slack[i], "ratio": s.ratio[i]}
                cells = {name: f"{x:.4g}" for name, x in numbers.items()}
                parameter = {"parameter": f"  {s.parameter} = {s.values[i]:.4g}"}
                shown.append(parameter | cells | ({} if s.met[i] else {"": "violated"}))
        title = f"{self.theorem}: {self.integrator} on {self.problem}: {self.verdict}"
        return aligned(shown, title=title, width=width)

    def text(self, rows: int = 10, width: int = 80) -> str:
        """Statement, hypotheses, constants, `table` and notes, in lines of at most `width` characters."""
        lines = [f"{self.theorem}: {self.statement}", f"source: {self.source}"]
        lines.append(f"{'promised' if self.promised else 'not promised'}: {self.promise}")
        for h in self.hypotheses:
            lines.append(f"  {'met    ' if h.met else 'NOT MET'} {h.name}{f': {h.detail}' if h.detail else ''}")
        lines += [f"  {name} = {c.value:.6g}: {c.source}" for name, c in self.constants.items()]
        end = [f"  {note}" for note in self.notes]
        end.append(f"{self.verdict}{f': {self.reason}' if self.reason else ''}")
        table = [self.table(rows, width)] if self.series else []
        return "\n".join([*_wrapped(lines, width), *table, *_wrapped(end, width)])

    def plot(self, ax=None, series: int | str = 0):
        """Both sides of one inequality over its parameter.

        Parameters
        ----------
        ax : matplotlib axes, optional
        series : int or str
            Index or name; the main one by default.

        Returns
        -------
        matplotlib axes
        """
        if ax is None:
            import matplotlib.pyplot as plt

            ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")[1]
        s = self.series[series] if isinstance(series, int) else next(s for s in self.series if s.name == series)
        x, left, right = (np.array(v, dtype=float) for v in (s.values, s.left, s.right))
        limit = np.array(s.slack) if s.equality else right
        measured, bound = "o-", "s--"
        if "measured" in s.right_label and "measured" not in s.left_label:  # a promise below what was measured
            measured, bound = bound, measured
        colours = {"o-": "#0072B2", "s--": "#D55E00"}
        label = "rounding" if s.equality else s.right_label
        ax.plot(x, limit, bound, color=colours[bound], ms=5, mfc="none", label=label)
        ax.plot(x, left, measured, color=colours[measured], ms=4, label=s.left_label)
        scales = s.parameter in ("h", "eps", "lam", "beta") or s.parameter.startswith(("sigma", "smallest", "cond"))
        shown = np.concatenate([v[np.isfinite(v)] for v in (left, limit)])
        positive = shown[shown > 0]
        if len(positive) and (scales or positive.max() > 20 * positive.min()) and shown.min() >= 0:
            ax.set_yscale("log")
        if scales and np.all(x >= 0) and np.any(x > 0):
            ax.set_xscale("log")
            if len(x) <= 6:
                ax.set_xticks(x[x > 0], [f"{v:.2g}" for v in x[x > 0]])
            ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        elif s.parameter in ("step", "T"):
            ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel(s.parameter)
        ax.set_ylabel("left and right side")
        ax.set_title(f"{self.integrator} on {self.problem}\n{s.name}: {self.verdict}", fontsize=9, loc="left")
        ax.legend(frameon=False, fontsize=8)
        ax.grid(alpha=0.25)
        return ax


def worst_of(certificates: Iterable[Certificate]) -> Certificate | None:
    """The certificate nearest to (or furthest beyond) its bound among those that apply; None if none does."""
    applicable = [c for c in certificates if c.verdict != NOT_APPLICABLE]
    if not applicable:
        return None

    def excess(c):
        s, i = c.worst
        return c.verdict == VIOLATED, s.excess[i]

    return max(applicable, key=excess)


def _numbers(values: Iterable) -> tuple[float, ...]:
    return tuple(float(x) for x in values)


def _plain(x: Any) -> Any:
    if np.ndim(x):
        return [_plain(v) for v in x]
    x = float(x)
    return x if math.isfinite(x) else str(x)


def _wrapped(lines: Iterable[str], width: int) -> list[str]:
    """Lines of at most `width` characters; what goes on is indented deeper than its beginning."""
    return [
        part
        for line in lines
        for part in textwrap.wrap(
            line, width, subsequent_indent=" " * (len(line) - len(line.lstrip()) + 4), break_long_words=False
        )
    ]
