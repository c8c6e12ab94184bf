"""Fine-tuning of the user's network on the user's files: the runs of ``dlrt finetune``, and what they write.

The state of a run goes to a file now and then, whole or not at all, so that the same call goes on where it was stopped,
by kill -9 too, and ends with the same numbers bit for bit (by the same code, on the same machine).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from integrators import GlobalBudget

from ..nn import load_low_rank, low_rank_state_dict, save_lora, save_low_rank
from ..plots import STYLE, WIDTH, column_figure, number_map, save_figure
from ..runs import best, check_folder, identify, rate, tune, versions, write_atomically, write_json
from . import files
from .comparison import ENDS, FIRST
from .loop import blank, losses_of, random_batches, steps, warm_up_and_decay
from .methods import METHODS, Prepared, plan_of, prepare, size
from .options import Options, Work, work

__all__ = ["finetune"]

SAVED_EVERY = 60.0
"""Seconds of training that are lost at most."""
RESULT, UNFINISHED = "metrics.json", "unfinished"

Progress = Callable[[float, dict[str, Any], int], object]


def finetune(
    options: Options, out: str | Path, *, fresh: bool = False, progress: Progress = lambda lr, record, steps: None
) -> dict[str, Any]:
    """Fine-tune, and write adapter, LoRA, measures and pictures to a folder; go on where an earlier call was stopped.

    Parameters
    ----------
    options : Options
    out : path
        Folder for ``adapter.safetensors`` (:func:`dlrt.nn.load_low_rank`), ``lora`` (for PEFT), ``metrics.json``,
        ``learning`` and ``ranks`` (``.png`` and ``.pdf``). Where training diverges there is no adapter.
    fresh : bool
        Begin anew, and replace what is there.
    progress : callable, optional
        Called as ``progress(lr, record, steps)`` before the first and after each step.

    Returns
    -------
    dict
        What ``metrics.json`` holds: ``settings``, ``identity`` (digests of data, network and code), ``versions``,
        ``classes``, ``notes`` (numbers of examples), ``tried`` (rate and validation loss, None where a run diverged),
        ``lr``, ``status``, ``losses`` by step, ``looks`` (by epoch: mean training loss, validation loss, accuracy or
        perplexity, number of trained parameters, total rank, ranks by layer), ``tapes``, ``seconds`` of training.

    Raises
    ------
    ValueError
        Bad data, with file and line; options that do not fit the network or the method; a folder with another run.
    OSError
        A file cannot be read or written.
    """
    out = check_folder(Path(out))
    loaded = work(options)
    identity = _identity(options, loaded)
    if fresh:
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)
        (out / RESULT).unlink(missing_ok=True)
    if (out / RESULT).is_file():
        found = _read(out / RESULT)
        _check_same(found["identity"], identity)
        return found
    if (out / UNFINISHED / "identity.json").is_file():
        _check_same(_read(out / UNFINISHED / "identity.json"), identity)
    write_json(out / UNFINISHED / "identity.json", identity)

    def train(lr: float) -> tuple[dict[str, Any], Prepared]:
        return _train(options, loaded, lr, out / UNFINISHED / f"{lr:g}.pt", progress)

    tried: dict[int, dict] = {}
    if options.lr == "search":
        tried = tune(
            [options.method],
            lambda wanted: [train(rate(k))[0] for _, k in wanted],
            first=FIRST,
            ends=ENDS,
            score=_score,
        )[options.method]
    record, prepared = train(rate(best(tried, _score)) if tried else float(options.lr))  # one that was tried: its file
    done = {k: found["status"] == "finished" for k, found in tried.items()}
    result = {
        "settings": options.json(),
        "identity": identity,
        "versions": versions("torch", "transformers"),
        "classes": loaded.classes,
        "notes": loaded.notes,
        "tried": [[rate(k), -_score(tried[k]) if done[k] else None] for k in sorted(tried)],
        **record,
    }
    if result["looks"]:
        save_figure(_learning(result), out / "learning")
        save_figure(_ranks(result["looks"][-1]["ranks"]), out / "ranks")
    if result["status"] == "finished":
        save_low_rank(prepared.model, out / "adapter.safetensors")
        save_lora(prepared.model, out / "lora")
    write_json(out / RESULT, result)  # the last: it says that all is there
    shutil.rmtree(out / UNFINISHED)
    return result


def _score(record: dict[str, Any]) -> float:
    return -record["looks"][-1]["validation_loss"]


# -- one run -----------------------------------------------------------------------------------------------------------


def _train(options: Options, work: Work, lr: float, path: Path, progress: Progress) -> tuple[dict, Prepared]:
    """Train at a rate, from the start or from where the file says; the record, and the network at the end."""
    number = len(work.task.splits["train"][1])
    per_epoch = max(1, number // options.batch)
    total = options.epochs * per_epoch
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        prepared = prepare(
            work.task.build(), options.method, lr, rank=options.rank, tau=_tau(options), budget=options.budget,
            steps=total, seed=options.seed, heads=work.heads,
        )  # fmt: skip
        _keep_statistics(prepared.model)
        schedule = warm_up_and_decay(prepared.optimizer, total)
        record = blank(method=options.method, lr=lr, seed=options.seed) | {"looks": [], "seconds": 0.0}
        if path.is_file():
            record = _resume(path, prepared, schedule)
        progress(lr, record, total)
        if record["status"] != "finished":
            return record, prepared
        batches = islice(random_batches(number, options.batch, options.seed), len(record["losses"]), total)
        saved = time.monotonic()
        losses = losses_of(prepared.model, work.task, batches)
        for seconds in steps(prepared.optimizer, losses, record, schedule, prepared.after):
            record["seconds"] += seconds
            done = len(record["losses"])
            if done % per_epoch == 0:
                look = {"epoch": done // per_epoch, "loss": sum(record["losses"][-per_epoch:]) / per_epoch}
                look |= work.measure(prepared.model) | _size(prepared)
                if not math.isfinite(look["validation_loss"]):
                    record["status"] = f"diverged at step {done}: the validation loss is not finite"
                    break
                record["looks"].append(look)
            progress(lr, record, total)
            if done == total or time.monotonic() - saved >= SAVED_EVERY:
                _save(path, prepared, schedule, record)
                saved = time.monotonic()
        if record["status"] != "finished":
            _save(path, prepared, schedule, record)
    return record, prepared


def _size(prepared: Prepared) -> dict[str, Any]:
    found = size(prepared)
    return {"parameters": found["parameters"], "total_rank": sum(found["ranks"].values()), "ranks": found["ranks"]}


def _keep_statistics(model: torch.nn.Module) -> None:
    """Batch normalisation by the statistics of the pretrained network: new ones would be in no adapter."""

    def rest(module, _):
        module.eval()

    for module in model.modules():
        if getattr(module, "track_running_stats", False):
            module.register_forward_pre_hook(rest)


def _save(path: Path, prepared: Prepared, schedule, record: dict[str, Any]) -> None:
    state = {
        "record": record,
        "model": low_rank_state_dict(prepared.model),
        "optimizer": prepared.optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
    }
    write_atomically(path, lambda file: torch.save(state, file))


def _resume(path: Path, prepared: Prepared, schedule) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has many for it
        raise ValueError(f"{path} is damaged, begin anew with --fresh: {error}") from error
    load_low_rank(prepared.model, state["model"])
    prepared.optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["random"][0])
    torch.cuda.set_rng_state_all(state["random"][1:])
    return state["record"]


# -- what a run is -----------------------------------------------------------------------------------------------------


def _tau(options: Options) -> float:
    return 0.3 if options.tau is None else options.tau


def _identity(options: Options, work: Work) -> dict[str, Any]:
    """What determines the numbers of a run; where the files are does not. Options that do not fit are refused."""
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = work.task.build()
    _check_fit(options, model)
    network = hashlib.blake2b(digest_size=16)
    for name, X in model.state_dict().items():
        network.update(f"{name} {tuple(X.shape)} {X.dtype}\n".encode())
        network.update(X.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    settings = {name: x for name, x in options.json().items() if name not in ("model", "data", "validation")}
    return {
        "settings": settings,
        "data": [files.fingerprint(paths) for paths in options.paths],
        "model": network.hexdigest(),
        "code": identify(function=finetune)["code"],
        "versions": {name: versions(name)[name] for name in ("torch", "transformers")},
    }


def _check_fit(options: Options, model: torch.nn.Module) -> None:
    """Whether method and network have a use for what was given."""
    method = METHODS[options.method]
    layers, plan = plan_of(model, options.rank, _tau(options), options.budget, 100)
    if plan.total < plan.layers:
        raise ValueError(f"budget must be at least 1 for each of the {plan.layers} layers, got {plan.total}")
    try:
        used = method.planned(plan), method.rank(plan)
        largest = min(min(model.get_parameter(f"{name}.weight").shape) for name in layers)
        if used[1] > largest:
            raise ValueError(f"adapters start at rank {used[1]}, and the smallest layer has rank {largest}")
        truncation = used[0].truncation
        if isinstance(truncation, GlobalBudget) and truncation.budget is not None:
            (name, there), each = truncation.budget, plan.layers if truncation.parameters is None else plan.direction
            if there < (least := each * (1 + truncation.spare)):
                raise ValueError(f"its budget of {there} {name} must be at least {least}")
    except ValueError as error:
        raise ValueError(f"rank must suit {options.method} and the layers, got {options.rank}: {error}") from error
    for name, changed in (("tau", replace(plan, tau=plan.tau / 2)), ("budget", replace(plan, budget=plan.total + 1))):
        if getattr(options, name) is not None and (method.planned(changed), method.rank(changed)) == used:
            raise ValueError(f"{name} must not be given for {options.method}, on which it has no effect")


def _check_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if found == wanted:
        return
    there, here = ({**identity["settings"], **identity} for identity in (found, wanted))
    differences = [
        f"{name} {there[name]!r}, not {x!r}" if name in wanted["settings"] else f"other {name}"
        for name, x in here.items()
        if name != "settings" and there.get(name) != x
    ]
    raise ValueError(f"out has another run ({'; '.join(differences)}): name another folder, or replace it with --fresh")


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, begin anew with --fresh: {error}") from error


# -- pictures ----------------------------------------------------------------------------------------------------------


def _learning(result: dict[str, Any]) -> Figure:
    """Losses, accuracy or perplexity, and total rank against the epoch."""
    looks, losses = result["looks"], np.array(result["losses"])
    epochs = [look["epoch"] for look in looks]
    measure = "perplexity" if result["classes"] is None else "accuracy"
    with rc_context(STYLE):
        figure, panels = column_figure(3)
        steps = np.arange(1, len(losses) + 1) / len(losses) * result["settings"]["epochs"]
        panels[0].plot(steps, losses, color="0.8", linewidth=0.7, label="each batch")
        for name, label, marker in (("loss", "training", "o"), ("validation_loss", "validation", "s")):
            panels[0].plot(epochs, [look[name] for look in looks], marker=marker, label=label)
        panels[0].set_ylabel("loss")
        panels[0].legend(frameon=False)
        for axes, name in ((panels[1], measure), (panels[2], "total_rank")):
            axes.plot(epochs, [look[name] for look in looks], marker="s", color="k")
            axes.set_ylabel(name.replace("_", " "))
        panels[2].set(xlabel="epoch", ylim=(0, None))
        panels[2].xaxis.get_major_locator().set_params(integer=True)
    return figure


def _ranks(ranks: dict[str, int]) -> Figure:
    """Rank by block and layer in it."""
    places = {name: _place(name) for name in ranks}
    blocks, layers = (list(dict.fromkeys(place[i] for place in places.values())) for i in (0, 1))
    table = np.full((len(blocks), len(layers)), np.nan)
    for name, (block, layer) in places.items():
        table[blocks.index(block), layers.index(layer)] = ranks[name]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.8 + 0.17 * len(blocks)), layout="constrained")
        axes = figure.subplots()
        texts = [[f"{rank:.0f}" if np.isfinite(rank) else "" for rank in row] for row in table]
        dark = table < 0.55 * max(ranks.values())
        image = number_map(axes, table, texts, dark, 5.5, cmap="cividis", origin="lower")
        axes.set(xticks=range(len(layers)), yticks=range(len(blocks)), yticklabels=blocks, ylabel="block")
        axes.set_xticklabels(layers, rotation=90)
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, label="rank", aspect=35, pad=0.02)
    return figure


def _place(name: str) -> tuple[str, str]:
    """Block and layer: ``encoder.layer.3.attention.query`` is 3 and attention.query."""
    numbers = re.findall(r"(?<=\.)\d+(?=\.)", f".{name}")
    return ".".join(numbers), re.split(r"(?:^|\.)\d+\.", name)[-1]
