r"""Table 1 of the GeoLoRA paper, measured: work, memory, gradient tapes and guarantees of each method.

One n x n layer of rank r, ``torch.nn.Linear`` or :class:`dlrt.nn.LowRankLinear`, and one training step on b tokens with
the plain optimiser, at a rank that is held. All operations and bytes are counted
(:mod:`paper_figures.counters`), in two parts: the network (forward and backward passes) and the integrator (the
optimiser's step). Beside the counts are formulas in n, r and b, derived from the equations of the methods:

- *network*, for each tape through bases of p columns (p = r, or 2 r where they are augmented): products of b x n and
  n x p matrices, 2 b n p each: x V and g U, times U^T and V^T, and where they are asked for g^T (x V) and x^T (g U);
  and products with p x p matrices, 2 b p^2 each: two with S, one for the S-gradient. Full rank: 6 b n^2.
- *integrator*, products of n x r with r x r matrices: n r^2 times the sum of the parts in :data:`WORK`; and what has
  no n in it, S and its decomposition: :data:`CORE`.

The counted products must be those of the formulas to the last one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from dlrt.nn import LowRankLinear
from dlrt.nn.optimizer import LowRankOptimizer
from dlrt.plots import WIDTH
from dlrt.theorems import HOLDS, NOT_APPLICABLE, THEOREMS
from integrators import INTEGRATORS, Adam, FixedRank, ImportanceBudget, Integrator, Truncation, count_evaluations

from ..counters import Meter, cholesky, product, svd, triangular
from ..pictures import legend_above, look
from ..statements import each, finding, where

PACKAGES = ("torch",)
TOKENS = 256
SIZES, RANKS = (256, 512, 1024, 2048, 4096), (4, 8, 16, 32, 64)
N, R = 1024, 16
FIXED = {"n": {"r": R}, "r": {"n": N}}
"""The layer of the table; the other sizes are taken at rank R, the other ranks at size N."""
WORD = 4
"""Bytes of a float32."""

# products of an n x r with an r x r matrix (2 n r^2 each) and thin QR factorisations (4 n r^2), for both sides together
COMPLEMENT = 2 * 2 * 8
"""(I - U U^H) X, its Gram matrix and the triangular solve: 8, done twice (Cholesky QR), on two sides."""
ROTATION = 2 * 8
"""[U | U~] P with 2r and r columns: 4; one step of re-orthonormalisation: 4."""
POINT = 2 * 2
"""K = U S and L = V S^H."""
WORK = {
    "full": {},
    "lora": {},
    "svd-lora": {"F V S^H and F^H U S": 4},
    "adalora": {"penalty: Gram matrices and their products": 8, "norm of what is masked: QR": 8},
    "splitting": {"K and L, twice": 2 * POINT, "QR": 8},
    "bug": {"K and L, twice": 2 * POINT, "QR": 8, "U1^H U0 and V0^H V1": 4},
    "augmented-bug": {
        "K and L": POINT,
        "new directions": COMPLEMENT,
        "[U | U~]^H U and the like": 8,
        "rotation": ROTATION,
    },
    "parallel-bug": {"K and L": POINT, "new directions": COMPLEMENT, "blocks of S": 4, "rotation": ROTATION},
    "geolora": {"new directions": COMPLEMENT, "blocks of S": 4, "rotation": ROTATION},
}


def _thin_qr(r: int) -> int:
    """Two QR factorisations of n x r without the part in n."""
    return 2 * (-4 * r**3 // 3)


def _directions(r: int) -> int:
    """Cholesky factors and their inverses, twice on two sides, and the SVD of the augmented S."""
    return 4 * (cholesky(r) + triangular(r, r)) + svd(2 * r, 2 * r)


CORE: dict[str, Callable[[int], int]] = {
    **dict.fromkeys(("full", "lora", "svd-lora"), lambda r: 0),
    "adalora": lambda r: _thin_qr(r) + 2 * product(r, r, r) + svd(r, r),
    "splitting": _thin_qr,
    "bug": lambda r: _thin_qr(r) + 2 * product(r, r, r),
    "augmented-bug": lambda r: _directions(r) + product(2 * r, r, r) + product(2 * r, r, 2 * r),
    "parallel-bug": _directions,
    "geolora": _directions,
}
"""Products and factorisations of the integrator without n."""
ALL, BOTH_SIDES, L_ALONE, S_ALONE = (12, 6), (12, 4), (10, 4), (8, 6)
"""b n p and b p^2 in the products of a tape: for all gradients, without that of S, for L and for S alone."""
TAPES = {
    "full": (),
    **dict.fromkeys(("svd-lora", "adalora", "parallel-bug", "geolora"), ((*ALL, 1),)),
    "lora": ((*BOTH_SIDES, 1),),
    "splitting": ((*ALL, 1), (*S_ALONE, 1), (*L_ALONE, 1)),
    "bug": ((*ALL, 1), (*S_ALONE, 1)),
    "augmented-bug": ((*ALL, 1), (*S_ALONE, 2)),
}
"""Both, and p / r, tape by tape."""


def budget(r: int) -> ImportanceBudget:
    """AdaLoRA's, which masks in every step."""
    return ImportanceBudget(initial=r, final=max(1, 2 * r // 3), total_steps=10)


@dataclass(frozen=True)
class Method:
    """A method: as its theorems are checked, and with ``truncation(rank)`` for one layer whose rank is held."""

    label: str
    checked: Integrator
    truncation: Callable[[int], Truncation] | None = None

    def integrator(self, rank: int, **options) -> Integrator:
        """For a layer of this rank."""
        held: dict[str, Any] = {} if self.truncation is None else {"truncation": self.truncation(rank)}
        return replace(self.checked, **held, **options)


METHODS = {
    "full": Method("full rank", INTEGRATORS["full-rank"]),
    "lora": Method("LoRA", INTEGRATORS["lora"]),
    "svd-lora": Method("SVD-LoRA", INTEGRATORS["svd-lora"]),
    "adalora": Method("AdaLoRA", INTEGRATORS["adalora"], budget),
    "splitting": Method("projector splitting", INTEGRATORS["projector-splitting"]),
    "bug": Method("BUG", INTEGRATORS["bug"]),
    "augmented-bug": Method("augmented BUG (DLRT)", INTEGRATORS["augmented-bug"], FixedRank),
    "parallel-bug": Method("parallel BUG", INTEGRATORS["parallel-bug"], FixedRank),
    "geolora": Method("GeoLoRA", INTEGRATORS["geolora"], FixedRank),
}
GUARANTEES = {
    "descent": "descent",
    "stationary-points": "no false rest",
    "convergence": "convergence",
    "error-bound": "robust bound",
}
"""Theorems of ``dlrt verify`` and their columns."""


# -- one step ----------------------------------------------------------------------------------------------------------


@dataclass
class Trainee:
    """A layer, its optimiser and a batch: one training step."""

    layer: torch.nn.Module
    optimizer: Any
    x: torch.Tensor
    target: torch.Tensor
    tapes: int = field(default=0)

    def closure(self) -> torch.Tensor:
        """Clear gradients, loss, backward."""
        self.optimizer.zero_grad()
        loss = (self.layer(self.x) - self.target).square().mean()
        loss.backward()
        self.tapes += 1
        return loss.detach()

    def held(self) -> list[torch.Tensor]:
        """What stays from step to step: parameters and the optimiser's memory."""
        memory = torch.utils._pytree.tree_leaves([dict(entry) for entry in self.optimizer.state.values()])
        return [X for X in [*self.layer.parameters(), *memory] if isinstance(X, torch.Tensor)]

    def gradients(self) -> list[torch.Tensor]:
        """Those of the last backward pass."""
        return [p.grad for p in self.layer.parameters() if p.grad is not None]


def trainee(method: str, n: int, r: int, tokens: int, optimizer=None) -> Trainee:
    """The layer after one step, so that nothing is allocated for the first time."""
    generator = torch.Generator().manual_seed(0)
    x, target = (torch.randn(tokens, n, generator=generator) for _ in "xy")
    x.requires_grad_()  # an inner layer of a network passes the gradient on
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if method == "full":
            layer: torch.nn.Module = torch.nn.Linear(n, n, bias=False)
            kind = torch.optim.SGD if optimizer is None else torch.optim.Adam
            inner: Any = kind(layer.parameters(), lr=1e-3)
        else:
            layer = LowRankLinear(n, n, bias=False, rank=r)
            options = {} if optimizer is None else {"optimizer": optimizer}
            inner = LowRankOptimizer(layer, METHODS[method].integrator(r, **options), 1e-3, rest=None)
    result = Trainee(layer, inner, x, target)
    result.optimizer.step(result.closure)
    return result


def measure(method: str, n: int, r: int, tokens: int = TOKENS) -> dict:
    """Counts of one step: exact integers, the same on every machine with the same torch.

    Returns
    -------
    dict
        ``tapes``; ``network`` and ``integrator``: operations in products, of which factorisations by name, and
        elementwise; ``stored``: bytes that stay from step to step; ``gradients``: bytes of the last backward pass's;
        ``extra``: most bytes alive at once in the integrator beyond these and the batch; ``largest``: of the largest
        tensor it makes.
    """
    one = trainee(method, n, r, tokens)
    one.tapes, one.x.grad = 0, None
    one.optimizer.zero_grad()
    held = one.held()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Meter("integrator", [*held, one.x, one.target]) as meter:

            def closure():
                with meter.part("network"):
                    return one.closure()

            one.optimizer.step(closure)
    finally:
        torch.set_num_threads(before)
    stored, gradients = _bytes(one.held()), _bytes(one.gradients())
    batch = _bytes([one.x, one.target, one.x.grad])
    network, integrator = meter.parts["network"], meter.parts["integrator"]
    return {
        "method": method,
        "n": n,
        "r": r,
        "tapes": one.tapes,
        "network": {"products": network.products, "elementwise": network.elementwise},
        "integrator": {
            "products": integrator.products,
            "elementwise": integrator.elementwise,
            "factorisations": dict(sorted(integrator.factorisations.items())),
        },
        "stored": stored,
        "gradients": gradients,
        "extra": max(0, integrator.peak - stored - gradients - batch),
        "largest": integrator.largest,
    }


def adam_memory(method: str, n: int, r: int) -> int:
    """Bytes of Adam's moments, counters apart."""
    one = trainee(method, n, r, 8, optimizer=Adam())
    return _bytes(one.held()) - _bytes(list(one.layer.parameters()))


def _bytes(tensors: list) -> int:
    storages = {X.untyped_storage()._cdata: X.untyped_storage().nbytes() for X in tensors if X.ndim}
    return sum(storages.values())


def guarantees(method: str, quick: bool) -> dict[str, dict]:
    """For each theorem whether it is promised for the method, and whether its small cases (quick: the first) hold."""
    found = {}
    for name in GUARANTEES:
        theorem = THEOREMS[name]
        certificates = itertools.islice(theorem.cases(METHODS[method].checked), 1 if quick else None)
        verdicts = [c.verdict for c in certificates if c.verdict != NOT_APPLICABLE]
        found[name] = {
            "promised": theorem.promises(METHODS[method].checked)[0],
            "held": sum(v == HOLDS for v in verdicts),
            "of": len(verdicts),
        }
    return found


# -- the table ---------------------------------------------------------------------------------------------------------


def compute(runs, quick: bool) -> dict:
    """Count, in five sizes and five ranks (quick: two), and check the theorems."""
    sizes, ranks = (SIZES[1:3], RANKS[1:3]) if quick else (SIZES, RANKS)
    grid = [(n, R) for n in sizes] + [(N, r) for r in ranks if r != R]
    found = runs.groups(
        {
            "methods": [(summary, {"method": m, "quick": quick}) for m in METHODS],
            "counts": [(measure, {"method": m, "n": n, "r": r}) for m in METHODS for n, r in grid],
        }
    )
    settings = {"tokens": TOKENS, "n": N, "r": R, "sizes": sizes, "ranks": ranks, "dtype": "float32"}
    return {"settings": settings, **found}


def summary(method: str, quick: bool) -> dict:
    """What does not depend on the size."""
    checked = METHODS[method].checked
    return {
        "method": method,
        "label": METHODS[method].label,
        "tapes": count_evaluations(checked),
        "rank adaptive": checked.rank_adaptive,
        "orthonormal": checked.manifold,
        "products": {"network": TAPES[method], "integrator": WORK[method]},
        "adam": adam_memory(method, N, R),
        "guarantees": guarantees(method, quick),
    }


def at(result: dict, method: str, n: int = N, r: int = R) -> dict:
    """The counts of a method for one layer."""
    return where(result["counts"], method=method, n=n, r=r)[0]


def operations(count: dict, *parts: str) -> int:
    """Products and elementwise operations of some parts together, by default of all."""
    return sum(count[part]["products"] + count[part]["elementwise"] for part in parts or ("network", "integrator"))


def exponent(result: dict, method: str, by: str) -> float:
    """Slope of log(operations of the integrator) over log n or log r, least squares."""
    counts = where(result["counts"], method=method, **FIXED[by])
    x, y = np.log2([[float(c[by]), float(operations(c, "integrator"))] for c in counts]).T
    return float(np.polyfit(x, y, 1)[0])


def network_formula(method: str, n: int, r: int, tokens: int) -> int:
    """Products of the network."""
    if method == "full":
        return 6 * tokens * n**2
    return sum(tokens * (a * n * p * r + c * (p * r) ** 2) for a, c, p in TAPES[method])


def integrator_formula(method: str, n: int, r: int) -> int:
    """Products of the integrator."""
    return sum(WORK[method].values()) * n * r**2 + CORE[method](r)


def integrator_text(method: str) -> str:
    """The same in words: ``52 n r² + 181 r³``."""
    if not WORK[method]:
        return "—"
    cubes = round(CORE[method](96) / 96**3)  # 96: thirds come out even
    small = f"{abs(cubes)} r³".removeprefix("1 ")
    return f"{sum(WORK[method].values())} n r²" + (f" {'+−'[cubes < 0]} {small}" if cubes else "")


def verdict(found: dict) -> str:
    """yes: promised and held; (yes): held in all cases, not promised; no: violated."""
    if found["held"] < found["of"]:
        return "no"
    return "yes" if found["promised"] else "(yes)"


def network_text(method: str) -> str:
    """The leading term of :func:`network_formula` in words."""
    return "6 b n²" if method == "full" else f"{sum(a * p for a, _, p in TAPES[method])} b n r"


def tables(result: dict) -> dict[str, list[dict]]:
    """The table for the README; bytes in units of one n x r array."""
    table, unit = [], WORD * N * R
    for m in result["methods"]:
        count = at(result, m["method"])
        adaptive, orthonormal = ("yes" if m[key] else "no" for key in ("rank adaptive", "orthonormal"))
        table.append(
            {
                "method": m["label"],
                "tapes": str(count["tapes"]),
                "network [flop]": network_text(m["method"]),
                "integrator [flop]": integrator_text(m["method"]),
                "Mflop": f"{operations(count, 'network') / 1e6:.0f} + {operations(count, 'integrator') / 1e6:.1f}",
                "stored [n r]": f"{count['stored'] / unit:.1f}",
                "Adam [n r]": f"{m['adam'] / unit:.1f}",
                "extra [n r]": f"{count['extra'] / unit:.1f}",
                "rank adaptive": adaptive,
                "orthonormal": "—" if m["method"] == "full" else orthonormal,
                **{GUARANTEES[name]: verdict(found) for name, found in m["guarantees"].items()},
            }
        )
    return {"rows": table}


def statements(result: dict) -> dict[str, dict]:
    """What is claimed of the counts, and in how many of the cases it held."""
    tokens, methods = result["settings"]["tokens"], result["methods"]
    counts = {method: where(result["counts"], method=method) for method in METHODS}
    everything = [c for method in METHODS for c in counts[method]]
    low_rank = [c | {"relative": c["largest"] / (WORD * c["n"] * c["r"])} for c in everything if c["method"] != "full"]
    several = [m["method"] for m in methods if m["tapes"] > 1]
    tapes = {m["method"]: m["tapes"] for m in methods}
    promised = [found for m in methods for found in m["guarantees"].values() if found["promised"]]
    growth = [{by: exponent(result, method, by) for by in FIXED} for method in METHODS if method != "full"]
    unit = WORD * N * R
    adam = {m["method"]: m["adam"] / unit for m in methods}
    stored = {method: at(result, method)["stored"] / unit for method in METHODS}
    work = {method: f"{operations(at(result, method)) / 1e6:.0f}" for method in METHODS}

    def less(value, *others):
        """Whether the value of GeoLoRA is less than that of the others, layer by layer."""
        pairs = (pair for other in others for pair in zip(counts["geolora"], counts[other], strict=True))
        return [value(mine) < value(theirs) for mine, theirs in pairs]

    def decompositions(count):
        made = count["integrator"]["factorisations"]
        return {name: times for name, times in made.items() if name.startswith(("SVD", "QR"))}

    return {
        "backward passes counted in a step are those the method states": finding(
            ", ".join(f"{m['label']} {at(result, m['method'])['tapes']}" for m in methods),
            [c["tapes"] == tapes[c["method"]] for c in everything],
        ),
        "GeoLoRA needs one tape, as LoRA does": finding(
            f"{at(result, 'geolora')['tapes']} and {at(result, 'lora')['tapes']}",
            [c["tapes"] == 1 for c in counts["geolora"] + counts["lora"]],
            paper="a single backward pass",
        ),
        "products of the network: exactly the formula": finding(
            "; ".join(f"{m['label']} {network_text(m['method'])}" for m in methods),
            [c["network"]["products"] == network_formula(c["method"], c["n"], c["r"], tokens) for c in everything],
        ),
        "products of the integrator: exactly the formula": finding(
            "; ".join(f"{m['label']} {integrator_text(m['method'])}" for m in methods),
            [c["integrator"]["products"] == integrator_formula(c["method"], c["n"], c["r"]) for c in everything],
            paper="O(n r²)",
        ),
        "GeoLoRA: one SVD, of 2r x 2r, and no QR; the rest are r x r": finding(
            ", ".join(f"{k} ({v})" for k, v in at(result, "geolora")["integrator"]["factorisations"].items()),
            [decompositions(c) == {f"SVD {2 * c['r']} x {2 * c['r']}": 1} for c in counts["geolora"]],
            paper="one small SVD",
        ),
        "the largest tensor of the integrator is n x 2r: nothing of size n x n": finding(
            f"up to {max(c['relative'] for c in low_rank):.0f} n r", [c["relative"] <= 2 for c in low_rank]
        ),
        "operations of the integrator grow with n like n (exponent at most 1.01)": each(
            growth, "{n.range:.3f}", lambda x: x["n"] <= 1.01, paper="O(n r²)"
        ),
        "and with r no faster than r² (exponent at most 2.1, since the decomposition of S adds r³)": each(
            growth,
            f"{{r.range:.2f}}, r up to {max(result['settings']['ranks'])}",
            lambda x: x["r"] <= 2.1,
            paper="O(n r²)",
        ),
        "a step of GeoLoRA takes fewer operations than one of each method with several tapes": finding(
            f"n = {N}, r = {R}: {work['geolora']} Mflop against {', '.join(work[m] for m in several)}",
            less(operations, *several),
        ),
        "a step of GeoLoRA takes fewer operations than one of AdaLoRA": finding(
            f"n = {N}, r = {R}: {work['geolora']} Mflop against {work['adalora']}",
            less(operations, "adalora"),
            paper="faster than AdaLoRA",
        ),
        "GeoLoRA stores less between steps than AdaLoRA, in units of n r": finding(
            f"{stored['geolora']:.1f} against {stored['adalora']:.1f}; "
            f"moments of Adam {adam['geolora']:.1f} against {adam['adalora'] - stored['adalora'] + stored['lora']:.1f}",
            less(lambda count: count["stored"], "adalora"),
        ),
        "what theory promises a method holds in the cases checked": finding(
            f"{sum(f['of'] for f in promised)} certificates", [f["held"] == f["of"] for f in promised]
        ),
    }


def draw(result: dict) -> Figure:
    """Operations of a whole step over n and over r."""
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    panels = figure.subplots(2, 1)
    for axes, (by, fixed) in zip(panels, FIXED.items(), strict=True):
        for m in result["methods"]:
            points = sorted((c[by], operations(c)) for c in where(result["counts"], method=m["method"], **fixed))
            axes.plot(*zip(*points, strict=True), label=m["label"], **look(m["method"]))
        [(other, value)] = fixed.items()
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set(xlabel=f"{by}  ({other} = {value})", ylabel="operations of a step")
    legend_above(figure, panels[0])
    panels[0].set_title(f"n × n layer of rank r, {result['settings']['tokens']} tokens")
    return figure
