"""Where directions limit: all methods on a small ViT that must learn changed pictures, at three numbers of parameters.

Rates and weight decays are tuned alike, by the validation loss over seeds that are used for nothing else. Everything
was chosen on pictures that are turned and inverted; those with shuffled patches are for confirmation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dlrt.finetune.comparison import times
from dlrt.finetune.data import CHANGED, Setting
from dlrt.finetune.loop import examples, fine_tune
from dlrt.finetune.methods import HEAD_LR, METHODS
from dlrt.finetune.small_vit import Pretraining, checksum
from dlrt.plots import column_figure, shared_legend
from dlrt.runs import Task, best, rate, run_tasks, tune

from ..pictures import look
from ..statements import finding, where
from .compared import text

PACKAGES = ("torch", "transformers", "peft")
COMPARED = (
    "full", "lora", "lora-plus", "peft-dora", "riemannian-lora", "stiefel-adamw", "stella", "adalora",
    "lora-factor-muon", "lora-muon", "geolora-budget", "geolora-spectral", "geolora-spectral-budget",
)  # fmt: skip
"""Methods of ``METHODS``, in the order of the table."""
OURS, RIVALS = "geolora-spectral-budget", ("lora", "lora-muon")
AT_ALL_SIZES = (*RIVALS, "geolora-spectral", OURS)
LONGER = ("full", *RIVALS, OURS)
"""Methods that are run with fewer parameters, and for a longer time too."""
RANKS = {"equal": 4, "three quarters": 3, "half": 2}
"""Ranks of the adapters, of a budget on average, by how many parameters they have."""
LONG = 3
"""Times as many steps, to see whether training has converged."""
TUNING, SEEDS = (100, 101), tuple(range(6))
"""Seeds of the tuning, and of the results."""
FIRST, ENDS = (-6, -5, -4, -3), (-11, 1)
"""Half decades of the rate: those tried first, and the smallest and the largest ever tried."""
DECAYS = (0.1, 1.0)
"""Weight decays tried besides none, at the rate that is best without."""
ROUNDS = 40
"""Timed steps of each method."""
QUICK = Pretraining(width=16, blocks=2, heads=2, steps=4, batch=16)


@dataclass(frozen=True)
class Study:
    """What is run on one task: the setting, the journal, and how much of it."""

    setting: Setting
    journal: Path
    jobs: int | None
    progress: Callable | None
    quick: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the results."""
        return SEEDS[:2] if self.quick else SEEDS

    def run(self, arguments: Iterable[dict], steps: int = 1) -> list[dict]:
        """Results of runs of `steps` times the usual length."""
        setting = replace(self.setting, steps=steps * self.setting.steps)
        return self.tasks([(fine_tune, {"setting": setting.json(), **given}) for given in arguments])

    def trials(self, wanted: Sequence[tuple[str, float, float]], steps: int = 1) -> list[dict]:
        """For each method, rate and weight decay the mean over the seeds of the tuning; no test data are looked at."""
        seeds = TUNING[:1] if self.quick or steps > 1 else TUNING
        setting = replace(self.setting, steps=steps * self.setting.steps, test=1)
        tasks: list[Task] = [
            (fine_tune, {"setting": setting.json(), "rank": RANKS["equal"], "method": m, "lr": lr, "weight_decay": wd,
                         "seed": seed})
            for m, lr, wd in wanted for seed in seeds
        ]  # fmt: skip
        found = self.tasks(tasks)
        return [_mean(found[i : i + len(seeds)]) for i in range(0, len(found), len(seeds))]

    def tasks(self, tasks: list[Task]) -> list[dict]:
        """Through the journal."""
        return run_tasks(tasks, journal=self.journal, jobs=self.jobs, progress=self.progress)

    def tuned(self) -> list[dict]:
        """Each method with its best rate, its best weight decay at that rate, and all that was tried."""
        first, ends = (FIRST[1:2], (FIRST[1], FIRST[1])) if self.quick else (FIRST, ENDS)
        tried = tune(
            COMPARED, lambda ks: self.trials([(m, rate(k), 0.0) for m, k in ks]), first=first, ends=ends, score=_score
        )
        lrs = {m: rate(best(tried[m], _score)) for m in COMPARED}
        decays = DECAYS[:1] if self.quick else DECAYS
        wanted = [(m, lrs[m], wd) for m in COMPARED for wd in decays]
        decayed = dict(zip(wanted, self.trials(wanted), strict=True))
        rows = []
        for m in COMPARED:
            at = {0.0: tried[m][best(tried[m], _score)]} | {wd: decayed[m, lrs[m], wd] for wd in decays}
            rows.append(
                {
                    "method": m,
                    "label": METHODS[m].label,
                    "lr": lrs[m],
                    "weight_decay": max(at, key=lambda wd: _finished_score(at[wd])),
                    "rates": [[rate(k), *_numbers(record)] for k, record in sorted(tried[m].items())],
                    "decays": [[wd, *_numbers(record)] for wd, record in at.items()],
                }
            )
        return rows

    def results(self, tuned: list[dict], steps: int = 1) -> list[dict]:
        """A row for each method and number of parameters, with paired differences to the rivals."""
        wanted = [(row, size) for row in tuned for size in RANKS if self.wants(row["method"], size, steps)]
        runs = iter(
            self.run(
                [
                    {key: row[key] for key in ("method", "lr", "weight_decay")} | {"rank": RANKS[size], "seed": seed}
                    for row, size in wanted
                    for seed in self.seeds
                ],
                steps,
            )
        )
        found = {(row["method"], size): [next(runs) for _ in self.seeds] for row, size in wanted}
        rivals = [found[rival, "equal"] for rival in RIVALS]
        return [
            _row(method, size, group, self.setting.test)
            | {"against": {m: paired(group, rival, self.setting.test) for m, rival in zip(RIVALS, rivals, strict=True)}}
            for (method, size), group in found.items()
        ]

    def wants(self, method: str, size: str, steps: int) -> bool:
        """Which methods are run at which size, for how long."""
        if steps > 1:
            return method in LONGER and size == "equal"
        return size == "equal" or method in AT_ALL_SIZES

    def longer(self, tuned: list[dict]) -> list[dict]:
        """Results of longer runs, their rates tuned anew between a decade below and half a decade above."""
        chosen = {row["method"]: row for row in tuned if row["method"] in LONGER}
        ks = {m: round(2 * math.log10(row["lr"])) for m, row in chosen.items()}
        rows = []
        for m, row in chosen.items():
            first = (ks[m],) if self.quick else (ks[m] - 1, ks[m])
            tried = tune(
                [m],
                partial(self._longer_trials, row["weight_decay"]),
                first=first,
                ends=(ks[m], ks[m]) if self.quick else (ks[m] - 2, ks[m] + 1),
                score=_score,
            )[m]
            rows.append(row | {"lr": rate(best(tried, _score))})
        lrs = {row["method"]: row["lr"] for row in rows}
        return [result | {"lr": lrs[result["method"]]} for result in self.results(rows, LONG)]

    def _longer_trials(self, decay: float, wanted: list[tuple[str, int]]) -> list[dict]:
        return self.trials([(method, rate(k), decay) for method, k in wanted], LONG)


def compute(runs, quick: bool) -> dict:
    """Pretrain, tune, run, and time all methods; quick: a tiny network, one rate, two seeds, a few steps."""
    network = QUICK if quick else Pretraining()
    folder = network.folder()
    weights = checksum(folder)
    small: dict[str, Any] = {"train": 64, "validation": 40, "test": 40, "batch": 8, "steps": 3} if quick else {}
    tasks = {}
    for name in CHANGED:
        setting = replace(CHANGED[name], model=str(folder) if quick else None, **small)
        study = Study(setting, runs.out / f"{name}-{weights}.jsonl", runs.jobs, runs.progress, quick)
        tuned = study.tuned()
        tasks[name] = {"tuned": tuned, "results": study.results(tuned)}
        if name == "turned":
            tasks[name]["longer"] = study.longer(tuned)
            rounds, journal = 1 if quick else ROUNDS, runs.out / "times.jsonl"
            seconds = times(setting, tuned, rounds=rounds, journal=journal, rank=RANKS["equal"])
    return {
        "title": "Small ViT, changed pictures of Fashion-MNIST",
        "settings": {
            "task": CHANGED["turned"].json() | small,
            "pretraining": asdict(network) | {"weights": weights},
            "seeds": len(study.seeds),
            "tuning seeds": 1 if quick else len(TUNING),
            "optimiser": f"AdamW at {HEAD_LR:g} for the head; linear warm-up over a tenth of the steps and decay",
        },
        "tasks": tasks,
        "seconds": seconds,
    }


# -- what runs say -----------------------------------------------------------------------------------------------------


def _score(record: dict) -> float:
    return -record["validation_loss"]


def _finished_score(record: dict) -> float:
    return _score(record) if record["status"] == "finished" else -math.inf


def _mean(records: list[dict]) -> dict:
    """Means of the validation loss and accuracy over seeds, and what one seed differs from another in the loss."""
    for record in records:
        if record["status"] != "finished":
            return {"status": record["status"]}
    losses = [record["validation_loss"] for record in records]
    return {
        "status": "finished",
        "validation_loss": float(np.mean(losses)),
        "validation": float(np.mean([record["validation"] for record in records])),
        "deviation": float(np.std(losses, ddof=1)) if len(losses) > 1 else None,
    }


def _numbers(record: dict) -> list:
    """Validation loss, its deviation over seeds, and accuracy; None where a run diverged."""
    return [record.get(key) for key in ("validation_loss", "deviation", "validation")]


def _row(method: str, size: str, runs: list[dict], tested: int) -> dict:
    """Means over seeds of a method at a size, and the runs."""
    done = [run for run in runs if run["status"] == "finished"]
    return {
        "method": method,
        "label": METHODS[method].label,
        "size": size,
        "diverged": len(runs) - len(done),
        "accuracy": float(np.mean([run["test"] for run in done])) if done else None,
        "deviation": float(np.std([run["test"] for run in done], ddof=1)) if len(done) > 1 else None,
        "parameters": float(np.mean([run["parameters"] - run["head"] for run in done])) if done else None,
        "loss": float(np.mean([run["validation_loss"] for run in done])) if done else None,
        "runs": [
            {key: run.get(key) for key in ("seed", "status", "test", "validation", "validation_loss")} for run in runs
        ],
    }


def paired(runs: list[dict], others: list[dict], tested: int) -> dict | None:
    """Mean difference in accuracy on the test data, seed against seed, and its standard errors.

    Over seeds: the deviation of the differences, over the root of their number. Over examples: of each example the mean
    over seeds of whether the class was found is compared, so that examples are drawn anew, not seeds. None where a run
    has diverged.
    """
    if any(run["status"] != "finished" for run in [*runs, *others]):
        return None
    right, other = (np.array([examples(run["right"], tested) for run in group], float) for group in (runs, others))
    by_seed, by_example = (right - other).mean(1), (right - other).mean(0)
    return {
        "difference": float(by_seed.mean()),
        "seeds": float(by_seed.std(ddof=1) / math.sqrt(len(by_seed))),
        "examples": float(by_example.std(ddof=1) / math.sqrt(tested)),
    }


def standard_error(data: dict, task: str) -> float | None:
    """Of a mean validation loss over the seeds of the tuning: deviations at the best rates, pooled over the methods."""
    found = [min(known, key=lambda row: row[1])[2] for row in data["tasks"][task]["tuned"] if (known := _known(row))]
    pooled = [deviation for deviation in found if deviation is not None]
    return float(np.sqrt(np.mean(np.square(pooled)) / data["settings"]["tuning seeds"])) if pooled else None


def rate_range(tuned: dict, error: float | None) -> tuple[float, float] | None:
    """Rates at which the validation loss is at most a standard error above the best, between those tried by lines."""
    known = _known(tuned)
    if not known or error is None:
        return None
    at, losses = np.log10([row[0] for row in known]), np.array([row[1] for row in known])
    fine = np.linspace(at[0], at[-1], 1001)
    within = fine[np.interp(fine, at, losses) <= losses.min() + error]
    return (10 ** float(within.min()), 10 ** float(within.max())) if len(within) else (10 ** at[losses.argmin()],) * 2


def _known(tuned: dict) -> list:
    """Of the rates tried those at which no run diverged."""
    return [row for row in tuned["rates"] if row[1] is not None]


# -- tables and statements ---------------------------------------------------------------------------------------------


def difference_text(against: dict | None) -> str:
    """Difference, and standard errors over seeds and over examples."""
    if against is None:
        return "—"
    return f"{against['difference']:+.4f} ± {against['seeds']:.4f}, ± {against['examples']:.4f}"


def tables(data: dict) -> dict[str, list[dict]]:
    """One table for each task, one of the longer runs, one of the rates."""
    seconds, ours = {m: s["median"] for m, s in data["seconds"].items()}, {}
    for name, task in data["tasks"].items():
        for key in ("results", "longer"):
            if key in task:
                ours[f"{name}-{key}"] = [_table_row(row, task["tuned"], seconds) for row in task[key]]
    rows = ours.pop("turned-results")
    return {"rows": rows, **ours, "rates": _rate_rows(data)}


def _table_row(row: dict, tuned: list[dict], seconds: dict) -> dict:
    [chosen] = [t for t in tuned if t["method"] == row["method"]]
    return {
        "method": row["label"],
        "size": row["size"],
        "rate": f"{row.get('lr', chosen['lr']):g}",
        "decay": f"{chosen['weight_decay']:g}",
        "adapter parameters": text(row["parameters"], ",.0f"),
        "test accuracy": text(row["accuracy"], ".4f") + (f" ± {row['deviation']:.4f}" if row["deviation"] else ""),
        **{f"− {METHODS[m].label}": difference_text(found) for m, found in row["against"].items()},
        "step / LoRA": f"{seconds[row['method']] / seconds['lora']:.2f}",
    }


def _rate_rows(data: dict) -> list[dict]:
    rows = []
    for name, task in data["tasks"].items():
        error = standard_error(data, name)
        for tuned in task["tuned"]:
            span = rate_range(tuned, error)
            decades = "—" if span is None else f"{math.log10(span[1] / span[0]):.2f}"
            losses = ", ".join(f"{lr:g}: {text(loss, '.3f', none='diverged')}" for lr, loss, *_ in tuned["rates"])
            rows.append({"task": name, "method": tuned["label"], "validation loss by rate": losses,
                         "decades within a standard error": decades})  # fmt: skip
    return rows


def statements(data: dict) -> dict[str, dict]:
    """What is claimed, and whether it held: twice a standard error over seeds and twice one over examples."""
    label = METHODS[OURS].label
    claims: dict[str, dict] = {}

    def claim(words: str, rows: list[dict], method: str, size: str, rival: str, factor: float) -> None:
        [against] = [row["against"][rival] for row in rows if (row["method"], row["size"]) == (method, size)]
        claims[words] = finding(
            difference_text(against),
            [against is not None and against["difference"] >= factor * against[kind] for kind in ("seeds", "examples")],
        )

    for name, task in data["tasks"].items():
        claim(f"{name}: full fine-tuning is better than LoRA by two standard errors: directions limit",
              task["results"], "full", "equal", "lora", 2)  # fmt: skip
        for rival in RIVALS:
            for size, factor in (("equal", 2), ("three quarters", 2), ("half", -1)):
                what = "better by two standard errors" if factor > 0 else "worse by at most one standard error"
                words = {"equal": "equal parameters", "half": "half of the parameters"}.get(size, f"{size} of them")
                claim(f"{name}: {label}, {words}: {what} than {METHODS[rival].label}",
                      task["results"], OURS, size, rival, factor)  # fmt: skip
    for rival in RIVALS:
        claim(f"turned, {LONG} times the steps: {label} better by two standard errors than {METHODS[rival].label}",
              data["tasks"]["turned"]["longer"], OURS, "equal", rival, 2)  # fmt: skip
    short, long = (
        next(row for row in data["tasks"]["turned"][key] if row["method"] == "full") for key in ("results", "longer")
    )
    gained = None if None in (short["accuracy"], long["accuracy"]) else long["accuracy"] - short["accuracy"]
    claims[f"turned: full fine-tuning has converged: {LONG} times the steps gain at most 0.01"] = finding(
        text(gained, "+.4f"), [gained is not None and gained <= 0.01]
    )
    ratio = data["seconds"][OURS]["median"] / data["seconds"]["lora"]["median"]
    claims[f"a whole step of {label} takes at most 1.15 times that of LoRA"] = finding(f"{ratio:.2f}", [ratio <= 1.15])
    for name, task in data["tasks"].items():
        spans = {t["method"]: rate_range(t, standard_error(data, name)) for t in task["tuned"]}
        widths = [math.log10(s[1] / s[0]) if (s := spans[m]) else math.nan for m in (OURS, "lora")]
        claims[f"{name}: rates within a standard error of the best: {label} has at least as many decades as LoRA"] = (
            finding("{:.2f} against {:.2f}".format(*widths), [widths[0] >= widths[1]])
        )
    return claims


# -- pictures ----------------------------------------------------------------------------------------------------------


def draw(data: dict) -> dict[str, Figure]:
    """Accuracy against parameters, accuracy against time, and the ranges of rates."""
    return {"": _sizes(data), "-time": _times(data), "-rates": _rates(data)}


def _sizes(data: dict) -> Figure:
    figure, panels = column_figure(len(data["tasks"]))
    for axes, (name, task) in zip(panels, data["tasks"].items(), strict=True):
        for method in dict.fromkeys(row["method"] for row in task["results"]):
            rows = [row for row in task["results"] if row["method"] == method and row["accuracy"] is not None]
            if not rows:
                continue
            looks = look(method)
            if method == "full":
                axes.axhline(rows[0]["accuracy"], color=looks["color"], linewidth=0.8, label=rows[0]["label"])
                continue
            _with_errors(axes, [row["parameters"] / 1000 for row in rows], rows, data)
        axes.set(ylabel="test accuracy", title=f"{name} pictures")
    panels[-1].set_xlabel("parameters of the adapters, as stored (thousands)")
    return shared_legend(figure, panels, _title(data, "mean and standard error"))


def _times(data: dict) -> Figure:
    figure, (axes,) = column_figure(1)
    task, steps = data["tasks"]["turned"], data["settings"]["task"]["steps"]
    for method, seconds in data["seconds"].items():
        points = [
            (number * steps * seconds["median"], row)
            for number, key in ((1, "results"), (LONG, "longer"))
            for row in where(task[key], method=method, size="equal")
            if row["accuracy"] is not None
        ]
        if points:
            _with_errors(axes, [at for at, _ in points], [row for _, row in points], data)
    axes.set(xscale="log", xlabel="seconds of training on one thread", ylabel="test accuracy")
    what = f"turned pictures, equal parameters, {steps} and {LONG * steps} steps"
    return shared_legend(figure, [axes], _title(data, what))


def _with_errors(axes, at: list[float], rows: list[dict], data: dict) -> None:
    """The mean accuracies of a method at several places, with their standard errors over the seeds."""
    looks = look(rows[0]["method"]) | {"linewidth": 0.8, "markersize": 4}
    means = [row["accuracy"] for row in rows]
    errors = [(row["deviation"] or 0.0) / math.sqrt(data["settings"]["seeds"]) for row in rows]
    axes.plot(at, means, label=rows[0]["label"], **looks)
    axes.errorbar(at, means, errors, fmt="none", color=looks["color"], linewidth=0.8, capsize=2)


def _rates(data: dict) -> Figure:
    figure, panels = column_figure(len(data["tasks"]))
    for axes, (name, task) in zip(panels, data["tasks"].items(), strict=True):
        error = standard_error(data, name)
        for y, tuned in enumerate(task["tuned"]):
            looks, span = look(tuned["method"]), rate_range(tuned, error)
            tried = [row[0] for row in _known(tuned)]
            axes.plot(tried, [y] * len(tried), "|", color="0.6", markersize=5)
            if span is not None:
                axes.plot(span, [y, y], color=looks["color"], linewidth=3, solid_capstyle="butt")
            axes.plot(tuned["lr"], y, marker=looks["marker"], color=looks["color"], markersize=4)
        labels = [tuned["label"] for tuned in task["tuned"]]
        axes.set(xscale="log", title=f"{name} pictures", yticks=range(len(labels)), ylim=(len(labels) - 0.5, -0.5))
        axes.set_yticklabels(labels, fontsize=6)
        axes.grid(False)
    panels[-1].set_xlabel("learning rate")
    figure.set_figheight(0.8 + 0.14 * sum(len(task["tuned"]) for task in data["tasks"].values()) + 0.3 * len(panels))
    return shared_legend(figure, panels, _title(data, "rates within a standard error of the best validation loss"))


def _title(data: dict, what: str) -> str:
    settings: Any = data["settings"]
    return f"{data['title']}\n{what}; {settings['task']['test']} test pictures, {settings['seeds']} seeds"
