"""Paired comparison of full training steps, and the optimiser's step alone: ``python -m benchmarks --help``.

The methods take turns, a step each, in one process, so that whatever else the machine does hits all of them alike.
The ratio to PEFT's LoRA with AdamW is the median over the rounds of the ratios of wall times, with the quartiles. Peak
memory is measured in a process of its own: the most that five steps need beyond the network.

``python -m benchmarks --device cuda`` does the same on a GPU, with networks and sizes for it. Each run writes its own
tables in benchmarks/README.md and leaves those of the other device alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
from pathlib import Path

import numpy as np
import torch

from . import optimizer
from .memory import peak_memory
from .step import METHODS, make

README = Path(__file__).with_name("README.md")
GRIDS: dict[str, list[tuple[str, int, int]]] = {  # network, tokens, rank
    "cpu": [
        *(("transformer", 1024, r) for r in (16, 32, 64)),
        *(("transformer", 256, r) for r in (16, 32)),
        *((layer, tokens, r) for layer in ("768x768", "768x3072") for tokens in (1024, 128) for r in (8, 32)),
    ],
    "cuda": [
        (f"transformer-{width}", tokens, r)
        for width in (1024, 2048, 4096)
        for tokens in (512, 4096, 16384)
        for r in (8, 16, 64)
    ],
}
NAMES = {
    "lora": "LoRA, AdamW (PEFT)",
    "adalora": "AdaLoRA, AdamW (PEFT)",
    "geolora": "GeoLoRA",
    "geolora held": "GeoLoRA, rank held",
    "geolora momentum": "GeoLoRA, momentum",
    "geolora adam": "GeoLoRA, Adam",
    "geolora spectral": "GeoLoRA, spectral, rank held",
    "geolora spectral budget": "GeoLoRA, spectral, budget",
    "geolora 10 S-steps": "GeoLoRA, 10 steps on S",
    "full": "all parameters, AdamW",
}


def paired(network: str, tokens: int, rank: int, methods: list[str], rounds: int, device: str) -> dict[str, dict]:
    """Wall seconds per step, ratios to the first method, and the smallest and largest rank."""
    steps = {method: make(method, network, rank, tokens, device) for method in methods}
    repeats = {method: 11 if "10 S-steps" in method else 1 for method in methods}  # a whole cycle
    for method, step in steps.items():
        for _ in range(4 * repeats[method]):
            step()
    wall = {method: np.empty(rounds) for method in methods}
    for k in range(rounds):
        for method, step in steps.items():
            _wait(device)
            start = time.perf_counter()
            for _ in range(repeats[method]):
                step()
            _wait(device)
            wall[method][k] = (time.perf_counter() - start) / repeats[method]
    result = {}
    for method in methods:
        low, middle, high = np.quantile(wall[method] / wall[methods[0]], [0.25, 0.5, 0.75])
        found = steps[method].ranks()  # type: ignore[attr-defined]
        result[method] = {
            "ms": 1e3 * float(np.median(wall[method])),
            "ratio": float(middle),
            "quartiles": [float(low), float(high)],
            "ranks": [found[0], found[-1]] if found else None,
        }
    return result


def _wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def table(rows: list[dict]) -> list[str]:
    """Markdown: a line for each size, a column for each method."""
    methods = list(rows[0]["methods"])
    lines = ["| network | tokens | r | " + " | ".join(NAMES[m] for m in methods) + " | ranks | MiB, LoRA and GeoLoRA |"]
    lines.append("|---" * (len(methods) + 5) + "|")
    for row in rows:
        cells = [row["network"], str(row["tokens"]), str(row["rank"])]
        for m in methods:
            one = row["methods"][m]
            low, high = one["quartiles"]
            cells.append(f"{one['ms']:.0f} ms" if m == methods[0] else f"{one['ratio']:.2f} ({low:.2f} to {high:.2f})")
        ranks = row["methods"].get("geolora", {}).get("ranks")
        cells.append(f"{ranks[0]} to {ranks[1]}" if ranks else "")
        cells.append(", ".join(f"{MiB:.0f}" for MiB in row["MiB"].values()))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def write(name: str, lines: list[str]) -> None:
    """Put lines between the marks of this name in the README."""
    text = README.read_text(encoding="utf-8")
    mark = f"<!-- {name} -->"
    pattern = re.compile(re.escape(mark) + "\n.*?" + re.escape(mark.replace("<!-- ", "<!-- end ")), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"benchmarks/README.md has no place marked {mark}")
    block = "\n".join([mark, *lines, mark.replace("<!-- ", "<!-- end ")])
    README.write_text(pattern.sub(lambda _: block, text), encoding="utf-8")


def machine(device: str, threads: int) -> str:
    """What was measured on."""
    name = platform.processor() or platform.machine()
    if device != "cpu":
        name = torch.cuda.get_device_name() if device == "cuda" else device
    return (
        f"{name}, torch {torch.__version__}, {threads} threads"
        if device == "cpu"
        else f"{name}, torch {torch.__version__}"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--networks", nargs="+", help="only those: transformer, transformer-1024, 768x3072, ...")
    parser.add_argument("--ranks", nargs="+", type=int, help="only those")
    parser.add_argument("--tokens", nargs="+", type=int, help="only those")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["steps", "optimizer"], help="whole steps, or the optimiser's alone")
    parser.add_argument("--out", type=Path, help="JSON file for the figures; without it the README is written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict = {"machine": machine(options.device, options.threads)}
    if options.only != "steps":
        found["optimizer"] = optimizer.measure(options.device, options.rounds)
        print("\n".join(optimizer.table(found["optimizer"])), flush=True)
    if options.only != "optimizer":
        found["steps"] = []
        for network, tokens, rank in GRIDS["cpu" if options.device == "cpu" else "cuda"]:
            wanted = (options.networks, options.tokens, options.ranks)
            if any(only and value not in only for only, value in zip(wanted, (network, tokens, rank), strict=True)):
                continue
            row = {"network": network, "tokens": tokens, "rank": rank}
            row["methods"] = paired(network, tokens, rank, options.methods, options.rounds, options.device)
            row["MiB"] = {
                method: peak_memory(network, rank, tokens, method, options.threads, options.device)
                for method in ("lora", "geolora")
            }
            found["steps"].append(row)
            print("\n".join(table([row])), flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))
        return
    kind = "cpu" if options.device == "cpu" else "gpu"
    for name, make_table in (("optimizer", optimizer.table), ("steps", table)):
        if name in found:
            write(f"{name} {kind}", [f"Measured on: {found['machine']}.", "", *make_table(found[name])])


if __name__ == "__main__":
    main()
