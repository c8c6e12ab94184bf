"""Premature rank loss of GeoLoRA, its cure by one spare direction, and where that fails: the item.

The theory is in :mod:`paper_figures.regression.rank_experiments`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..statements import each, finding, grouped, range_text, where
from ..tasks import cases, rows
from . import rank_experiments as run
from .rank_experiments import NOISE_TOLERANCE, RATE, SIZE, SPECTRA, START_RANK, STEPS, TAILS, noise_of_iterate
from .rank_pictures import draw

__all__ = ["compute", "draw", "statements", "tables"]

SCOPE: dict[str, tuple[Any, Any]] = {
    "seeds": (range(5), range(1)),
    "few": (range(3), range(1)),
    "shapes": ([[50, 50], [40, 200], [200, 200]], [[50, 50]]),
    "taus": ([0.1, 0.03, 0.01], [0.1]),
    "names": (list(SPECTRA), list(SPECTRA)[:2]),
    "tails": (list(TAILS), list(TAILS)[:1]),
    "recovery_rates": ([0.03, 0.3, 1.0], []),
    "long": ([4000], []),
    "rates": ([0.001, 0.01, 0.1, 1.0], [0.01, 0.1]),
    "sigmas": ([2.02, 2.1, 2.25, 2.5, 3.0, 4.0, 5.0, 10.0], [2.1, 5.0]),
    "missing": ([1, 2, 4, 8], [4]),
    "several_spares": ([1, 2, 4], [1, 2]),
    "tail_spares": ([0, 1, 2, 3, 4, 5, 6], [1, 2]),
    "max_ranks": ([1, 2, 3, 4, 5], [3, 5]),
    "noisy_starts": ([("large", 0), ("large", 1), ("zero", 0)], [("large", 0), ("large", 1)]),
    "levels": ([0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0], [2.0, 16.0]),
    "ratios": ([0.5, 0.75, 1.0, 1.5, 2.0, 3.0], []),
    "example_spares": ([0, 1], []),
    "sizes": ([(200, 5), (1000, 5), (1000, 20), (1000, 50)], [(200, 5)]),
}
"""Of a full and of a quick run."""


def compute(runs, quick):
    """The success table and the experiments on its limits; quick: a part of the settings and seeds."""
    given = {name: values[quick] for name, values in SCOPE.items()}
    seeds, few, shapes, taus, names = (list(given[key]) for key in ("seeds", "few", "shapes", "taus", "names"))
    spectra, tails = [SPECTRA[name] for name in names], {name: TAILS[name] for name in given["tails"]}
    starts = {"zero": "W = 0", "large": "Gaussian core with the norm of A"}
    small: dict[str, list] = {"shape": [[50, 50]], "tau": [0.1]}
    grid = {"spectrum": spectra, "start": list(starts), "tau": taus, "spare": [0, 1], "shape": shapes, "seed": seeds}
    one = {"spectrum": spectra[:1], **small, "spare": [0, 1], "seed": seeds}
    groups = {
        "grid": cases(run.recover, **grid),
        "by_rate": [
            task
            for start in starts
            for rate in given["recovery_rates"]
            for task in cases(run.recover, start=[start], rate=[rate], steps=[math.ceil(50 / rate)], **one)
        ],
        "for_long": cases(
            run.recover, steps=given["long"], spectrum=spectra, **small, start=["large"], spare=[0], seed=few[:2]
        ),
        "one_step": cases(run.one_step, rate=given["rates"], seed=few),
        "growth": cases(run.growth, tau=[0.1], rate=[0.1, 0.03], sigma=given["sigmas"], seed=few)
        + cases(run.growth, tau=[0.1], rate=[0.1], sigma=[2.0], seed=few),
        "several": cases(
            run.several, spread=[0.0, 0.01], missing=given["missing"], spare=given["several_spares"], seed=seeds
        ),
        "tail": cases(run.tail, spectrum=list(tails.values()), spare=given["tail_spares"], seed=few),
        "stationary": [
            task
            for bases in ("axes", "random")
            for columns, spare in ((0, 0), (0, 1), (1, 1))
            for task in cases(run.stationary, bases=[bases], columns=[columns], spare=[spare], seed=few)
        ],
        "wrong_direction": cases(run.wrong_direction, max_rank=[1, 2], overlap=[1e-3, 1e-6], seed=few),
        "limited": cases(run.limited, max_rank=given["max_ranks"], seed=few),
        "noisy": [
            task
            for start, spare in given["noisy_starts"]
            for task in cases(run.noisy, start=[start], spare=[spare], level=given["levels"], seed=few)
        ],
        "weak_signal": cases(run.weak_signal, ratio=given["ratios"], seed=few),
        "example": cases(run.example, spare=given["example_spares"], seed=seeds),
    }
    found = {name: rows(groups[name], results) for name, results in runs.groups(groups).items()}
    timed = [(run.cost, {"size": n, "rank": r}) for n, r in given["sizes"]]
    costs = runs(timed, jobs=1)  # after the parallel work, one after the other
    return {
        "settings": {
            "rate": RATE,
            "steps": STEPS,
            "start_rank": START_RANK,
            "size": SIZE,
            "dtype": "float64",
            "spectra": {name: SPECTRA[name] for name in names},
            "tails": tails,
            "starts": starts,
            "recovered": "||W - A|| <= 1.001 e + 1e-6 ||A||, e the error of A truncated by the same rule",
            "seeds": seeds,
            "shapes": shapes,
            "taus": taus,
        },
        "success": _success(found.pop("grid")),
        "success_by_rate": _success(found.pop("by_rate")),
        **found,
        "cost": rows(timed, costs),
    }


def _success(found):
    """How often the runs recovered, over shapes and seeds."""
    names = {tuple(values): name for name, values in SPECTRA.items()}
    found = [row | {"spectrum": names[tuple(row["spectrum"])], "rate": row.get("rate", RATE)} for row in found]
    table = []
    keys = ("spectrum", "start", "tau", "rate", "spare")
    for values, runs in grouped(found, *keys).items():
        steps = [r["steps"] for r in runs if r["recovered"]]
        table.append(
            dict(zip(keys, values, strict=True))
            | {
                "recovered": sum(r["recovered"] for r in runs),
                "of": len(runs),
                "median_steps": float(np.median(steps)) if steps else None,
                "counted": [min(r["counted"] for r in runs), max(r["counted"] for r in runs)],
                "rule_rank": runs[0]["rule_rank"],
            }
        )
    return table


def slope(rows, key):
    """Exponent p of ``value ~ rate^p`` by least squares."""
    return float(np.polyfit(np.log([r["rate"] for r in rows]), np.log([r[key] for r in rows]), 1)[0])


def statements(data):
    """What is claimed of the loss, the cure and its limits, run by run."""

    def recovered(spare, *starts):
        table = [r for start in starts for r in where(data["success"], start=start, spare=spare)]
        return [x for r in table for x in [True] * r["recovered"] + [False] * (r["of"] - r["recovered"])]

    def success(outcomes, wanted):
        return finding(f"{sum(outcomes)} of {len(outcomes)} recover", [x == wanted for x in outcomes])

    def counts(row):
        return row["steps"] is not None

    one_step = [r | {"ratio": r["plain"] / r["bound"]} for r in data["one_step"]]
    by_seed = grouped((r for r in one_step if r["rate"] <= 0.1), "seed").values()
    slopes = [{key: slope(rows, key) for key in ("plain", "spare")} for rows in by_seed]
    growth = [r | {"due": math.ceil(r["predicted"])} for r in data["growth"] if r["predicted"] is not None]
    growth = [r | {"late": r["measured"] - r["due"] if r["measured"] else None} for r in growth]
    below = where(data["growth"], predicted=None)
    stuck = where(data["stationary"], bases="axes", columns=0)
    held = where(data["wrong_direction"], max_rank=1)
    more = [b["steps"] - a["steps"] for a, b in grouped(held, "seed").values()]
    noisy = [r | {"noise": noise_of_iterate(r["level"])} for r in data["noisy"]]
    spare_noise = [r | {"ratio": r["last_value"] / r["noise"]} for r in where(noisy, spare=1) if r["level"] > 0]
    several = [r | {"all_at": r["counted_at"][-1]} for r in data["several"]]
    blind = [r for r in several if r["spread"] == 0 and r["missing"] > 2 * r["spare"]]
    sighted = [r for r in several if r["missing"] >= r["spare"] and (r["spread"] > 0 or r["missing"] <= 2 * r["spare"])]
    weak = [r["overlap"] or 0.0 for r in data["weak_signal"] if r["ratio"] < 1]
    strong = [r["overlap"] or 0.0 for r in data["weak_signal"] if r["ratio"] > 1]
    claims = {
        "published GeoLoRA from W = 0 ends at a smaller rank than the tolerance asks for": success(
            recovered(0, "zero"), False
        ),
        "published GeoLoRA from a start as large as A ends at a smaller rank": success(recovered(0, "large"), False),
        "it stays there for 4000 steps (start as large as A)": each(
            data["for_long"], "rank {counted.range:.0f} of 5 to 10", lambda r: not r["recovered"]
        ),
        "one spare direction: as good as truncating A itself": success(recovered(1, "zero", "large"), True),
        "without a spare direction a new value is of order λ² (slope for λ ≤ 0.1, within 0.1)": each(
            slopes, "{plain.range:.2f}", lambda r: abs(r["plain"] - 2) < 0.1
        ),
        "and at most ‖(λc) S₁⁻¹ (λb)‖": each(
            one_step, "ratio {ratio.range:.3f}", lambda r: r["plain"] <= r["bound"] * (1 + 1e-6) + 1e-13
        ),
        "with one it is of order λ (slope within 0.3)": each(
            slopes, "{spare.range:.2f}", lambda r: abs(r["spare"] - 1) < 0.3
        ),
        "one missing value: steps until it counts = ⌈1 + ln(1 − s_τ/σ) / ln(1 − λ)⌉": each(
            growth, "{measured.range:.0f} steps; difference {late.range:.0f}", lambda r: r["late"] == 0
        ),
        "one missing value below s_τ never counts (its direction is in W all the same, as the spare one)": finding(
            range_text([r["measured"] for r in below]), [r["measured"] is None for r in below]
        ),
        "at a best rank-r point with a residual exactly orthogonal to the bases nothing enters, spare or not": finding(
            range_text([r["steps"] for r in stuck]), [r["steps"] is None for r in stuck]
        ),
        "in random bases rounding errors supply the direction that one spare keeps": each(
            where(data["stationary"], bases="random", columns=0, spare=1), "{steps.range:.0f} steps", counts
        ),
        "one random column of value 0 at the start leaves every best rank-r point": each(
            where(data["stationary"], columns=1), "{steps.range:.0f} steps", counts
        ),
        "many small values, p spare directions: the rank rests where the rule sees no more of r + p values": each(
            [r for r in data["tail"] if r["spare"] > 0],
            "rank {counted.range:.0f}",
            lambda r: r["counted"] == r["predicted"],
        ),
        "many small values: one spare direction misses the rank of the rule on A": each(
            where(data["tail"], spare=1),
            "rank {counted.range:.0f}, the rule on A keeps {rule_rank.range:.0f}",
            lambda r: r["counted"] < r["rule_rank"],
        ),
        "no room for a spare column (max_rank 1), 10 held in place of 20: an overlap 1000 times smaller costs "
        "ln 1000 / ln 1.1 = 72.5 more steps, that is, factor 1.1 a step": finding(
            f"{range_text([r['steps'] for r in held], '.0f')} steps, {range_text(more, '.0f')} more",
            [abs(x - math.log(1000) / math.log(1.1)) < 2 for x in more],
        ),
        "the same with room for one spare column (max_rank 2): at most 10 steps": each(
            where(data["wrong_direction"], max_rank=2), "{steps.range:.0f} steps", lambda r: r["steps"] <= 10
        ),
        "max_rank at or below the rank of A: the best approximation of that rank, from a start as large as A": each(
            data["limited"], "error in excess {excess.range:.1e} of ‖A‖", lambda r: r["excess"] < 1e-6
        ),
        "gradient noise does not give published GeoLoRA its rank back (start as large as A)": each(
            where(noisy, start="large", spare=0), "rank {counted.range:.0f} of 5", lambda r: r["counted"] < 5
        ),
        "one spare direction under noise below the tolerance: rank 5 and one noise column": each(
            [r for r in spare_noise if r["noise"] < NOISE_TOLERANCE],
            "rank {counted.range:.0f}; last value over 2ν√(λ/(2−λ)): {ratio.range:.2f}",
            lambda r: (r["counted"], r["columns"]) == (5, 6),
        ),
        "one spare direction under noise above 1.5 times the tolerance: the rank runs away": each(
            [r for r in spare_noise if r["noise"] > 1.5 * NOISE_TOLERANCE],
            "rank {counted.range:.0f}",
            lambda r: r["counted"] > 5,
        ),
        "the spare direction finds a value (overlap above 1/2) above the noise ν√(λ/(2−λ)), and only there": finding(
            f"overlap {range_text(weak, '.2f')} below it, {range_text(strong, '.2f')} from 1.5 times on",
            [x <= 0.5 for x in weak] + [x > 0.5 for x in strong],
        ),
        "cost of the spare column: at most a quarter more time per step, at ranks 5 to 50": each(
            data["cost"],
            "time × {time_ratio.range:.2f}, parameters × {parameter_ratio.range:.2f}",
            lambda r: r["time_ratio"] < 1.25,
        ),
        "more than 2p missing values exactly equal: the residual leaves the bases by rounding only (below 1e-9)": each(
            blind, "{unseen.range:.0e}, all count after {all_at.range:.0f} steps", lambda r: r["unseen"] < 1e-9
        ),
        "p to 2p of them, or p and more that are 1 % apart: it is always seen (above 1e-9)": each(
            sighted, "{unseen.range:.0e}, all count after {all_at.range:.0f} steps", lambda r: r["unseen"] >= 1e-9
        ),
    }
    return {claim: about for claim, about in claims.items() if about["of"]}  # a quick run leaves some experiments out


def tables(data):
    """Success rates, waits, costs and noise, for the README."""
    starts = {"zero": "W = 0", "large": "as large as A"}

    def share(row):
        return f"{row['recovered']}/{row['of']}"

    def group(name, *keys):
        return grouped(data[name], *keys).items()

    noisy_rows = grouped(data["noisy"], "level", "start", "spare")
    shown = {"no spare": ("large", 0), "no spare, W = 0": ("zero", 0), "one spare": ("large", 1)}

    def noise(level, case, key, form):
        return range_text([r[key] for r in noisy_rows.get((level, *shown[case]), [])], form, "–", none="—")

    return {
        "success": [
            {"singular values of A": spectrum}
            | {
                f"start: {starts[start]}, τ = {tau:g}": ", ".join(map(share, pair))
                for (start, tau), pair in grouped(rows, "start", "tau").items()
            }
            for (spectrum,), rows in group("success", "spectrum")
        ],
        "rates": [
            {"λ": f"{r['rate']:g}", "start": starts[r["start"]], "spare": str(r["spare"]), "recovered": share(r)}
            for r in data["success_by_rate"]
        ],
        "several": [
            {"q": str(missing)}
            | {
                f"{'1 % apart' if spread else 'equal'}, p = {spare}": range_text(
                    [r["counted_at"][-1] for r in runs], ".0f", "–"
                )
                for (spread, spare), runs in grouped(rows, "spread", "spare").items()
            }
            for (missing,), rows in group("several", "missing")
        ],
        "cost": [
            {
                "n": str(r["size"]),
                "rank r": str(r["rank"]),
                "step at rank r": f"{1000 * r['seconds']:.2f} ms",
                "at r + 1": f"× {r['time_ratio']:.2f}",
                "parameters": f"× {r['parameter_ratio']:.2f}",
            }
            for r in data["cost"]
        ],
        "noise": [
            {"ν": f"{level:g}", "noise": f"{noise_of_iterate(level) / NOISE_TOLERANCE:.2f}"}
            | {f"rank, {case}": noise(level, case, "counted", ".0f") for case in shown}
            | {f"error, {case}": noise(level, case, "relative_error", ".2f") for case in ("no spare", "one spare")}
            for level in dict.fromkeys(r["level"] for r in data["noisy"])
        ],
    }
