"""The optimiser's step alone, by the ranks of the layers: calls of the dispatcher, reads on the host, and time."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch

from integrators import SGD, Adam, GeoLoRA, LowRank, Momentum, Spectral, Tolerance
from tests.dlrt.nn.counting import counted, give_gradients, stepper

TWO, FOUR = [(384, 384), (384, 1536)], [(256, 256), (256, 320), (320, 256), (192, 192)]
DIRECTIONS = {"plain": SGD(), "momentum": Momentum(0.9), "Adam": Adam(), "spectral": Spectral()}


def of_equal_squares(ranks: list[int]) -> list[int]:
    """As many equal ranks with the same sum of squares, rounded."""
    return [round(math.sqrt(sum(r * r for r in ranks) / len(ranks)))] * len(ranks)


SPREAD = np.random.default_rng(0).integers(2, 17, 36).tolist()
CASES: dict[str, tuple[list[tuple[int, int]], list[int]]] = {
    "36 layers of 2 shapes, ranks 1 to 36": (TWO, list(range(1, 37))),
    "the same, equal ranks": (TWO, of_equal_squares(list(range(1, 37)))),
    "36 layers of 2 shapes, ranks 2 to 16": (TWO, SPREAD),
    "the same, equal ranks ": (TWO, of_equal_squares(SPREAD)),
    "224 layers of 4 shapes, ranks 1 to 56": (FOUR, [1 + i % 56 for i in range(224)]),
    "36 layers of 12 x 12, rank 2": ([(12, 12)], [2] * 36),
    "36 layers of 12 x 12, ranks 1 to 6": ([(12, 12)], [1 + i % 6 for i in range(36)]),
}


def integrator(direction: str) -> GeoLoRA:
    """GeoLoRA whose ranks change."""
    optimizer = DIRECTIONS[direction]
    return GeoLoRA(truncation=Tolerance(relative=0.75 if optimizer.flat else 0.1, spare=1), optimizer=optimizer)


class Repeatable:
    """An optimiser that can take the same step again and again."""

    def __init__(self, case: str, direction: str, device: str):
        shapes, ranks = CASES[case]
        self.model, self.optimizer = stepper(shapes, ranks, integrator(direction), device)
        self.start = {name: LowRank(*(X.clone() for X in layer.Y)) for name, layer in self.model.items()}
        self.saved = self.optimizer.state_dict()

    def seconds(self) -> float:
        """Processor seconds of the step on a processor, else wall seconds."""
        for name, Y in self.start.items():
            self.model[name].Y = Y
        self.optimizer.load_state_dict(self.saved)
        give_gradients(self.model)
        clock: Any = time.process_time
        if (device := self.model["0"].S.device).type != "cpu":
            clock = time.perf_counter
            torch.accelerator.synchronize(device)
        start = clock()
        self.optimizer.step()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return clock() - start


def measure(device: str, rounds: int) -> list[dict]:
    """For each case and direction: calls, reads, median milliseconds, ratio to equal ranks. Cases take turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = {(case, d): Repeatable(case, d, device) for case in CASES for d in DIRECTIONS}
        times: dict = {key: [] for key in made}
        for k in range(rounds + 2):
            for key, one in made.items():
                seconds = one.seconds()
                if k >= 2:
                    times[key].append(1e3 * seconds)
    finally:
        torch.set_num_threads(threads)
    rows, before = [], None
    for case, (shapes, ranks) in CASES.items():
        row: dict[str, Any] = {"case": case.strip()}
        for d in DIRECTIONS:
            calls, reads = counted(shapes, ranks, integrator(d), device=device)
            row[d] = {"calls": calls, "reads": reads, "ms": float(np.median(times[case, d]))}
            if case.startswith("the same"):
                before[d]["ratio"] = float(np.median(np.divide(times[rows[-1]["case"], d], times[case, d])))
        rows.append(before := row)
    return rows


def table(rows: list[dict]) -> list[str]:
    """Markdown."""
    lines = [
        "| layers | " + " | ".join(f"{d}: calls, reads | ms | to equal ranks" for d in DIRECTIONS) + " |",
        "|---" * (1 + 3 * len(DIRECTIONS)) + "|",
    ]
    for row in rows:
        cells = [row["case"]]
        for d in DIRECTIONS:
            one = row[d]
            ratio = f"{one['ratio']:.2f}" if "ratio" in one else ""
            cells += [f"{one['calls']}, {one['reads']}", f"{one['ms']:.1f}", ratio]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
