"""Premature rank loss of GeoLoRA, its cure by one spare direction, and where that fails: the item.

The theory is in :mod:`paper_figures.regression.rank_experiments`.
"""

from __future__ import annotations

import math

import numpy as np

from ..statements import grouped, range_text, statement
from ..tasks import cases
from . import rank_experiments as run
from .rank_experiments import RATE, SIZE, SPECTRA, START_RANK, STEPS, TAILS
from .rank_pictures import draw

__all__ = ["compute", "draw", "statements", "tables"]


def compute(runs, quick):
    """The success table and the experiments on its limits; quick: a part of the settings and seeds."""
    seeds = list(range(2 if quick else 5))
    few = list(range(1 if quick else 3))
    shapes = [[50, 50]] if quick else [[50, 50], [40, 200], [200, 200]]
    taus = [0.1] if quick else [0.1, 0.03, 0.01]
    names = list(SPECTRA)[:2] if quick else list(SPECTRA)
    tails = dict(list(TAILS.items())[:1]) if quick else TAILS
    spares = [1, 2] if quick else [0, 1, 2, 3, 4, 5, 6]
    levels = [2.0, 16.0] if quick else [0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0]
    rates = [0.01, 0.1] if quick else [0.001, 0.01, 0.1, 1.0]
    sigmas = [2.1, 5.0] if quick else [2.02, 2.1, 2.25, 2.5, 3.0, 4.0, 5.0, 10.0]
    starts = ["zero", "large"]
    spectra = [SPECTRA[name] for name in names]
    small: dict[str, list] = {"shape": [[50, 50]], "tau": [0.1]}
    groups = {
        "grid": cases(run.recover, spectrum=spectra, start=starts, tau=taus, spare=[0, 1], shape=shapes, seed=seeds),
        "by_rate": [
            (run.recover, arguments | {"steps": math.ceil(50 / arguments["rate"])})
            for _, arguments in cases(
                run.recover,
                spectrum=spectra[:1],
                **small,
                start=starts,
                rate=[0.03, 0.3, 1.0],
                spare=[0, 1],
                seed=seeds,
            )
            if not quick
        ],
        "for_long": cases(
            run.recover,
            spectrum=[] if quick else spectra,
            **small,
            start=["large"],
            spare=[0],
            steps=[4000],
            seed=few[:2],
        ),
        "one_step": cases(run.one_step, rate=rates, seed=few),
        "growth": cases(run.growth, tau=[0.1], rate=[0.1, 0.03], sigma=sigmas, seed=few)
        + cases(run.growth, tau=[0.1], rate=[0.1], sigma=[2.0], seed=few),
        "several": cases(
            run.several,
            spread=[0.0, 0.01],
            missing=[4] if quick else [1, 2, 4, 8],
            spare=[1, 2] if quick else [1, 2, 4],
            seed=seeds,
        ),
        "tail": cases(run.tail, spectrum=list(tails.values()), spare=spares, seed=few),
        "stationary": [
            task
            for bases in ("axes", "random")
            for columns, spare in ((0, 0), (0, 1), (1, 1))
            for task in cases(run.stationary, bases=[bases], columns=[columns], spare=[spare], seed=few)
        ],
        "wrong_direction": cases(run.wrong_direction, max_rank=[1, 2], overlap=[1e-3, 1e-6], seed=few),
        "limited": cases(run.limited, max_rank=[3, 5] if quick else [1, 2, 3, 4, 5], seed=few),
        "noisy": [
            task
            for start, spare in [("large", 0), ("large", 1), ("zero", 0)][: 2 if quick else 3]
            for task in cases(run.noisy, start=[start], spare=[spare], level=levels, seed=few)
        ],
        "weak_signal": cases(run.weak_signal, ratio=[] if quick else [0.5, 0.75, 1.0, 1.5, 2.0, 3.0], seed=few),
        "example": cases(run.example, spare=[] if quick else [0, 1], seed=seeds),
    }
    rows = {
        name: [arguments | result for (_, arguments), result in zip(groups[name], results, strict=True)]
        for name, results in runs.groups(groups).items()
    }
    sizes = [(200, 5)] if quick else [(200, 5), (1000, 5), (1000, 20), (1000, 50)]
    timed = [{"size": n, "rank": r} for n, r in sizes]  # after the parallel work, one after the other
    costs = runs([(run.cost, arguments) for arguments in timed], jobs=1)
    return {
        "settings": {
            "rate": RATE,
            "steps": STEPS,
            "start_rank": START_RANK,
            "size": SIZE,
            "dtype": "float64",
            "spectra": {name: SPECTRA[name] for name in names},
            "tails": tails,
            "starts": {"zero": "W = 0", "large": "Gaussian core with the norm of A"},
            "recovered": "||W - A|| <= 1.001 e + 1e-6 ||A||, e the error of A truncated by the same rule",
            "seeds": seeds,
            "shapes": shapes,
            "taus": taus,
        },
        "success": _success(rows.pop("grid")),
        "success_by_rate": _success(rows.pop("by_rate")),
        **rows,
        "cost": [arguments | found for arguments, found in zip(timed, costs, strict=True)],
    }


def _success(rows):
    """How often the runs recovered, over shapes and seeds."""
    names = {tuple(values): name for name, values in SPECTRA.items()}
    rows = [row | {"spectrum": names[tuple(row["spectrum"])], "rate": row.get("rate", RATE)} for row in rows]
    table = []
    keys = ("spectrum", "start", "tau", "rate", "spare")
    for values, runs in grouped(rows, *keys).items():
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

    def outcomes(start, spare):
        rows = [r for r in data["success"] if (r["start"], r["spare"]) == (start, spare)]
        return [x for r in rows for x in [True] * r["recovered"] + [False] * (r["of"] - r["recovered"])]

    def share(held):
        return f"{sum(held)} of {len(held)} recover"

    small = [r for r in data["one_step"] if r["rate"] <= 0.1]
    slopes = {key: [slope(rows, key) for rows in grouped(small, "seed").values()] for key in ("plain", "spare")}
    growth_rows = [r for r in data["growth"] if r["predicted"] is not None]
    below = [r for r in data["growth"] if r["predicted"] is None]
    stuck = [r for r in data["stationary"] if r["bases"] == "axes" and r["columns"] == 0]
    rounding = [r for r in data["stationary"] if r["bases"] == "random" and (r["columns"], r["spare"]) == (0, 1)]
    column = [r for r in data["stationary"] if r["columns"] == 1]
    tails = [r for r in data["tail"] if r["spare"] > 0]
    one = [r for r in data["tail"] if r["spare"] == 1]
    held = [r for r in data["wrong_direction"] if r["max_rank"] == 1]
    more = [b["steps"] - a["steps"] for a, b in grouped(held, "seed").values()]
    room = [r for r in data["wrong_direction"] if r["max_rank"] == 2]
    quiet = [r for r in data["noisy"] if r["start"] == "large" and r["spare"] == 0]
    floor = {r["level"]: 2 * r["level"] * math.sqrt(RATE / (2 - RATE)) for r in data["noisy"]}
    threshold = 0.1 * float(np.linalg.norm(SPECTRA["20, 16, 12, 8, 4"]))
    spare_noise = [r for r in data["noisy"] if r["spare"] == 1 and r["level"] > 0]
    calm = [r for r in spare_noise if floor[r["level"]] < threshold]
    loud = [r for r in spare_noise if floor[r["level"]] > 1.5 * threshold]
    published, published_large = outcomes("zero", 0), outcomes("large", 0)
    cured = outcomes("zero", 1) + outcomes("large", 1)
    found = [
        statement(
            "published GeoLoRA from W = 0 ends at a smaller rank than the tolerance asks for",
            share(published),
            [not x for x in published],
        ),
        statement(
            "published GeoLoRA from a start as large as A ends at a smaller rank",
            share(published_large),
            [not x for x in published_large],
        ),
        statement("one spare direction: as good as truncating A itself", share(cured), cured),
        statement(
            "without a spare direction a new value is of order λ² (slope for λ ≤ 0.1, within 0.1)",
            range_text(slopes["plain"], ".2f"),
            [abs(x - 2) < 0.1 for x in slopes["plain"]],
        ),
        statement(
            "and at most ‖(λc) S₁⁻¹ (λb)‖",
            f"ratio {range_text([r['plain'] / r['bound'] for r in data['one_step']], '.3f')}",
            [r["plain"] <= r["bound"] * (1 + 1e-6) + 1e-13 for r in data["one_step"]],
        ),
        statement(
            "with one it is of order λ (slope within 0.3)",
            range_text(slopes["spare"], ".2f"),
            [abs(x - 1) < 0.3 for x in slopes["spare"]],
        ),
        statement(
            "one missing value: steps until it counts = ⌈1 + ln(1 − s_τ/σ) / ln(1 − λ)⌉",
            f"{range_text([r['measured'] for r in growth_rows], '.0f')} steps; difference "
            + range_text([r["measured"] - math.ceil(r["predicted"]) for r in growth_rows if r["measured"]], ".0f"),
            [r["measured"] == math.ceil(r["predicted"]) for r in growth_rows],
        ),
        statement(
            "one missing value below s_τ never counts (its direction is in W all the same, as the spare one)",
            range_text([r["measured"] for r in below]),
            [r["measured"] is None for r in below],
        ),
        statement(
            "at a best rank-r point with a residual exactly orthogonal to the bases nothing enters, spare or not",
            range_text([r["steps"] for r in stuck]),
            [r["steps"] is None for r in stuck],
        ),
        statement(
            "in random bases rounding errors supply the direction that one spare keeps",
            f"{range_text([r['steps'] for r in rounding], '.0f')} steps",
            [r["steps"] is not None for r in rounding],
        ),
        statement(
            "one random column of value 0 at the start leaves every best rank-r point",
            f"{range_text([r['steps'] for r in column], '.0f')} steps",
            [r["steps"] is not None for r in column],
        ),
        statement(
            "many small values, p spare directions: the rank rests where the rule sees no more of r + p values",
            f"rank {range_text([r['counted'] for r in tails], '.0f')}",
            [r["counted"] == r["predicted"] for r in tails],
        ),
        statement(
            "many small values: one spare direction misses the rank of the rule on A",
            f"rank {range_text([r['counted'] for r in one], '.0f')}, the rule on A keeps "
            + range_text([r["rule_rank"] for r in one], ".0f"),
            [r["counted"] < r["rule_rank"] for r in one],
        ),
        statement(
            "no room for a spare column (max_rank 1), 10 held in place of 20: an overlap 1000 times smaller costs "
            "ln 1000 / ln 1.1 = 72.5 more steps, that is, factor 1.1 a step",
            f"{range_text([r['steps'] for r in held], '.0f')} steps, {range_text(more, '.0f')} more",
            [abs(x - math.log(1000) / math.log(1.1)) < 2 for x in more],
        ),
        statement(
            "the same with room for one spare column (max_rank 2): at most 10 steps",
            f"{range_text([r['steps'] for r in room], '.0f')} steps",
            [r["steps"] is not None and r["steps"] <= 10 for r in room],
        ),
        statement(
            "max_rank at or below the rank of A: the best approximation of that rank, from a start as large as A",
            f"error in excess {range_text([r['excess'] for r in data['limited']], '.1e')} of ‖A‖",
            [r["excess"] < 1e-6 for r in data["limited"]],
        ),
        statement(
            "gradient noise does not give published GeoLoRA its rank back (start as large as A)",
            f"rank {range_text([r['counted'] for r in quiet], '.0f')} of 5",
            [r["counted"] < 5 for r in quiet],
        ),
        statement(
            "one spare direction under noise below the tolerance: rank 5 and one noise column",
            f"rank {range_text([r['counted'] for r in calm], '.0f')}; last value over 2ν√(λ/(2−λ)): "
            + range_text([r["last_value"] / floor[r["level"]] for r in calm], ".2f"),
            [r["counted"] == 5 and r["columns"] == 6 for r in calm],
        ),
        statement(
            "one spare direction under noise above 1.5 times the tolerance: the rank runs away",
            f"rank {range_text([r['counted'] for r in loud], '.0f')}",
            [r["counted"] > 5 for r in loud],
        ),
    ]
    weak, strong = (
        [r["overlap"] or 0.0 for r in data["weak_signal"] if wanted(r["ratio"])]
        for wanted in (lambda ratio: ratio < 1, lambda ratio: ratio > 1)
    )
    if weak:
        found.append(
            statement(
                "the spare direction finds a value (overlap above 1/2) above the noise ν√(λ/(2−λ)), and only there",
                f"overlap {range_text(weak, '.2f')} below it, {range_text(strong, '.2f')} from 1.5 times on",
                [x <= 0.5 for x in weak] + [x > 0.5 for x in strong],
            )
        )
    found.append(
        statement(
            "cost of the spare column: at most a quarter more time per step, at ranks 5 to 50",
            f"time × {range_text([r['time_ratio'] for r in data['cost']], '.2f')}, parameters × "
            + range_text([r["parameter_ratio"] for r in data["cost"]], ".2f"),
            [r["time_ratio"] < 1.25 for r in data["cost"]],
        )
    )
    blind = [r for r in data["several"] if r["spread"] == 0 and r["missing"] > 2 * r["spare"]]
    sighted = [
        r for r in data["several"] if r["missing"] >= r["spare"] and (r["spread"] > 0 or r["missing"] <= 2 * r["spare"])
    ]
    found += [
        statement(
            "more than 2p missing values exactly equal: the residual leaves the bases by rounding only (below 1e-9)",
            f"{range_text([r['unseen'] for r in blind], '.0e')}, all count after "
            + f"{range_text([r['counted_at'][-1] for r in blind], '.0f')} steps",
            [r["unseen"] < 1e-9 for r in blind],
        ),
        statement(
            "p to 2p of them, or p and more that are 1 % apart: it is always seen (above 1e-9)",
            f"{range_text([r['unseen'] for r in sighted], '.0e')}, all count after "
            + f"{range_text([r['counted_at'][-1] for r in sighted], '.0f')} steps",
            [r["unseen"] >= 1e-9 for r in sighted],
        ),
    ]
    for_long = data["for_long"]
    if for_long:
        found.insert(
            2,
            statement(
                "it stays there for 4000 steps (start as large as A)",
                f"rank {range_text([r['counted'] for r in for_long], '.0f')} of 5 to 10",
                [not r["recovered"] for r in for_long],
            ),
        )
    return found


def tables(data):
    """Success rates, waits, costs and noise, for the README."""
    starts = {"zero": "W = 0", "large": "as large as A"}

    def share(row):
        return f"{row['recovered']}/{row['of']}"

    def group(name, *keys):
        return grouped(data[name], *keys).items()

    noisy_rows = grouped(data["noisy"], "level", "start", "spare")
    shown = {"no spare": ("large", 0), "no spare, W = 0": ("zero", 0), "one spare": ("large", 1)}
    norm = 0.1 * float(np.linalg.norm(SPECTRA["20, 16, 12, 8, 4"]))

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
            {"ν": f"{level:g}", "noise": f"{2 * level * math.sqrt(RATE / (2 - RATE)) / norm:.2f}"}
            | {f"rank, {case}": noise(level, case, "counted", ".0f") for case in shown}
            | {f"error, {case}": noise(level, case, "relative_error", ".2f") for case in ("no spare", "one spare")}
            for level in dict.fromkeys(r["level"] for r in data["noisy"])
        ],
    }
