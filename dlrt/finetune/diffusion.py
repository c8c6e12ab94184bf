"""A small diffusion model and its fine-tuning to a subject by all methods: Table 4 is made of such runs.

diffusers' U-Net with cross attention, that of Stable Diffusion but small, starts at random weights and is pretrained
for minutes on pictures of nine classes of Fashion-MNIST; the tenth class is the subject. The loss is that of noise
prediction: for a picture x, noise e and a time t, ||network(a_t x + b_t e, t, label) - e||^2 per pixel, with the a_t,
b_t of diffusers' DDPMScheduler. Adapters go to all linear and convolution layers of the U-Net and of the encoder.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save
from torch import nn

from integrators import GeoLoRA, Tolerance

from ..nn import LowRankOptimizer, adapt, load_low_rank, low_rank_layers, merge, ranks, save_low_rank
from ..runs import late, report, write_atomically
from . import methods
from .assets import fashion_mnist
from .loop import blank, one_thread, steps, warm_up_and_decay
from .methods import WITH_ADAM, Method, Plan, Prepared, trained

CLASSES = (
    "T-shirts", "trousers", "pullovers", "dresses", "coats", "sandals", "shirts", "sneakers", "bags", "ankle boots",
)  # fmt: skip
SCHEDULE = DDPMScheduler()
TOKENS, WIDTH = 4, 32
"""Length of the sequence that encodes a label, and its features."""
COARSE = 0.3
"""A second tolerance of GeoLoRA, that of Tables 2 and 3."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Network, data and lengths of the runs.

    ``pretraining`` steps on ``pretraining_batch`` pictures of all classes but ``subject``; ``steps`` on ``batch`` of
    its ``train`` pictures. Losses are over ``draws`` noises and times for each of ``validation`` and ``test`` pictures.
    """

    channels: tuple[int, ...] = (32, 64)
    subject: int = 8
    pretraining: int = 400
    pretraining_batch: int = 32
    train: int = 16
    validation: int = 64
    test: int = 128
    draws: int = 4
    steps: int = 60
    batch: int = 8
    rank: int = 8
    tau: float = 0.1

    def json(self) -> dict:
        """The fields, as JSON values."""
        return dataclasses.asdict(self) | {"channels": list(self.channels)}


FULL = Setting()
QUICK = Setting(
    channels=(16, 32), pretraining=4, pretraining_batch=8, train=8, validation=8, test=8, draws=1, steps=4, batch=4
)


def tolerance(tau: float, rank: int) -> Tolerance:
    """A local tolerance, and at most twice the rank at the start, as in the paper's run."""
    return Tolerance(relative=tau, max_rank=2 * rank, spare=1)


METHODS = {
    "full": Method("full fine-tuning"),
    **{name: methods.METHODS[name] for name in ("lora", "svd-lora", "adalora")},
    "lora-half": Method("LoRA, rank 4", WITH_ADAM["lora"], rank=lambda p: p.rank // 2),
    "geolora": Method(f"GeoLoRA, τ = {FULL.tau:g}", WITH_ADAM["geolora"], lambda p: tolerance(p.tau, p.rank)),
    "geolora-coarse": Method(f"GeoLoRA, τ = {COARSE:g}", WITH_ADAM["geolora"], lambda p: tolerance(COARSE, p.rank)),
    "peft-lora": Method("LoRA (PEFT)"),
}


# -- network and data --------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """Noise prediction: a U-Net with cross attention to a sequence that a small encoder makes of a label."""

    def __init__(self, channels):
        super().__init__()
        self.labels = nn.Embedding(len(CLASSES), TOKENS * WIDTH)
        self.encoder = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH))
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=1,
            out_channels=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=tuple(channels),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=16,
            norm_num_groups=8,
        )

    def forward(self, x, t, label):
        """(B, 1, 16, 16), (B), (B) to (B, 1, 16, 16)."""
        return self.unet(x, t, self.encoder(self.labels(label).unflatten(1, (TOKENS, WIDTH)))).sample


@dataclasses.dataclass(frozen=True)
class Examples:
    """Noisy pictures, their times and labels, and the noise to be found."""

    noisy: torch.Tensor
    times: torch.Tensor
    labels: torch.Tensor
    noise: torch.Tensor

    @classmethod
    def draw(cls, pictures, labels, generator) -> Examples:
        """Fresh noise, and times that are uniform over all 1000."""
        times = torch.randint(len(SCHEDULE.timesteps), (len(pictures),), generator=generator)
        noise = torch.randn(pictures.shape, generator=generator)
        return cls(SCHEDULE.add_noise(pictures, noise, times), times, labels, noise)

    def loss(self, network) -> torch.Tensor:
        """Mean square of what is left of the noise."""
        return nn.functional.mse_loss(network(self.noisy, self.times, self.labels), self.noise)

    def split(self, size: int) -> Iterator[Examples]:
        """Parts of this size."""
        parts = zip(*(getattr(self, f.name).split(size) for f in dataclasses.fields(self)), strict=True)
        return (Examples(*part) for part in parts)

    def to(self, dtype) -> Examples:
        """In another floating-point type."""
        return Examples(self.noisy.to(dtype), self.times, self.labels, self.noise.to(dtype))


@torch.no_grad()
def held_out_loss(network, examples: Examples) -> float:
    """The loss, 64 examples at a time."""
    total = sum(float(part.loss(network)) * len(part.times) for part in examples.split(64))
    return total / len(examples.times)


def pictures(part: str, chosen: Callable[[np.ndarray], np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 1, 16, 16) between -1 and 1 and labels of a part of Fashion-MNIST; ``chosen(labels)`` selects."""
    images, labels = fashion_mnist()[part]
    index = chosen(labels)
    x = torch.from_numpy(images[index]).float()[:, None] / 127.5 - 1
    x = nn.functional.avg_pool2d(nn.functional.pad(x, (2, 2, 2, 2), value=-1.0), 2)
    return x, torch.from_numpy(labels[index])


def subject(setting: Setting) -> tuple[tuple[torch.Tensor, torch.Tensor], dict[str, Examples]]:
    """The few pictures to train on, and the examples for validation and test: other pictures, noise drawn once."""

    def of_class(number):
        return lambda labels: np.flatnonzero(labels == setting.subject)[:number]

    x, y = pictures("train", of_class(setting.train + setting.validation))
    held_out = {
        "validation": (x[setting.train :], y[setting.train :]),
        "test": pictures("test", of_class(setting.test)),
    }
    generator = torch.Generator().manual_seed(2024)
    examples = {
        name: Examples.draw(a.repeat(setting.draws, 1, 1, 1), b.repeat(setting.draws), generator)
        for name, (a, b) in held_out.items()
    }
    return (x[: setting.train], y[: setting.train]), examples


# -- runs --------------------------------------------------------------------------------------------------------------


def pretrain(*, setting: dict, file: str) -> dict:
    """Train all weights from random ones on all classes but the subject, and write them to a safetensors file."""
    wanted = Setting(**setting)
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(wanted.channels)
        data = pictures("train", lambda labels: np.flatnonzero(labels != wanted.subject))
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        record = blank()
        train(network, optimizer, data, wanted.pretraining, wanted.pretraining_batch, 0, record)
        if record["status"] != "finished":
            raise FloatingPointError(f"pretraining {record['status']}")
        _, held_out = subject(wanted)
        found = {name: held_out_loss(network, examples) for name, examples in held_out.items()}
    write_atomically(Path(file), lambda out: out.write(save(network.state_dict())))
    losses = record["losses"]
    return {"first": losses[0], "last": late(losses), **found}


def pretrained(setting: Setting, file: str) -> Network:
    """The network that :func:`pretrain` wrote."""
    network = Network(setting.channels)
    network.load_state_dict(load_file(file))
    return network


def fine_tune(*, setting: dict, file: str, method: str, lr: float, seed: int) -> dict:
    """Fine-tune the pretrained network to the subject once: JSON values in and out.

    Parameters
    ----------
    setting : dict
        Of a :class:`Setting`.
    file : str
        Of the pretrained network.
    method : str
        One of ``METHODS``.
    lr : float
        Largest learning rate: linear warm-up over a tenth of the steps, then linear decay.
    seed : int
        Of the start of the adapters, the order of the pictures, noise and times.

    Returns
    -------
    dict
        ``status``, ``losses`` by step, ``training`` (loss over the last tenth), ``validation`` and ``test`` loss at the
        end, ``parameters`` trained, and ``ranks`` by layer.
    """
    wanted = Setting(**setting)
    record = blank(method=method, lr=lr, seed=seed) | {"training": None}
    with one_thread(), torch.random.fork_rng(devices=[]):
        data, held_out = subject(wanted)
        network = pretrained(wanted, file)
        torch.manual_seed(seed)
        prepared = prepare(network, method, lr, wanted, seed)
        train(network, prepared.optimizer, data, wanted.steps, wanted.batch, seed, record)
        if record["status"] != "finished":
            return record
        found = {name: held_out_loss(network, examples) for name, examples in held_out.items()}
    if not all(map(math.isfinite, found.values())):
        return record | {"status": "diverged: the loss at the end is not finite"}
    counts = {"parameters": prepared.parameters(), "ranks": prepared.ranks()}
    return record | found | {"training": late(record["losses"])} | counts


def adaptable(network, rank: int) -> tuple[dict[str, nn.Linear | nn.Conv2d], dict[str, str]]:
    """Linear and convolution layers by name that take an adapter of this rank; the others, with the reason."""
    taken: dict[str, nn.Linear | nn.Conv2d] = {}
    refused: dict[str, str] = {}
    for name, module in network.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            try:
                adapt(nn.ModuleDict({"layer": copy.deepcopy(module)}), "layer", rank, generator=torch.Generator())
                taken[name] = module
            except ValueError as error:
                refused[name] = str(error).removeprefix("layer: ")
    return taken, refused


def inject(network, names: dict[str, nn.Linear | nn.Conv2d], rank: int, seed: int) -> None:
    """Adapters on the layers of these names, of a smaller rank where a matrix is too small."""
    wanted: dict[str | re.Pattern | type, int] = {
        name: min(rank, len(m.weight), m.weight[0].numel()) for name, m in names.items()
    }
    adapt(network, list(wanted), wanted, generator=torch.Generator().manual_seed(seed))


def plan(setting: Setting, layers: Collection) -> Plan:
    """The hyper-parameters of adapters on these layers."""
    return Plan(setting.rank, setting.tau, None, len(layers), setting.steps)


def prepare(network, method: str, lr: float, setting: Setting, seed: int) -> Prepared:
    """Put the adapters of a method into the network, in place, and make its optimiser."""
    names, _ = adaptable(network, setting.rank)
    chosen = METHODS[method]
    if chosen.integrator is not None:
        planned = plan(setting, names)
        inject(network, names, chosen.rank(planned), seed)
        integrator = chosen.planned(planned)
        counts = functools.partial(trained, network, integrator), functools.partial(ranks, network)
        return Prepared(network, LowRankOptimizer(network, integrator, lr), *counts)
    if method == "peft-lora":
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(r=setting.rank, lora_alpha=setting.rank, lora_dropout=0.0, target_modules=list(names))
        inject_adapter_in_model(config, network)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=lr)
    return Prepared(network, optimizer, functools.partial(trained, network))


def train(network, optimizer, data, number: int, batch: int, seed: int, record: dict) -> None:
    """Train for a number of steps on random pictures with fresh noise; what happens goes into the record."""
    generator = torch.Generator().manual_seed(seed)
    x, y = data

    def losses():
        for _ in range(number):
            chosen = torch.randint(len(x), (batch,), generator=generator)
            yield functools.partial(Examples.draw(x[chosen], y[chosen], generator).loss, network)

    for step, _ in enumerate(steps(optimizer, losses(), record, warm_up_and_decay(optimizer, number)), 1):
        report(step / number)


# -- checks ------------------------------------------------------------------------------------------------------------


def check(*, setting: dict, file: str) -> dict:
    """Do injection, training step, save and merge what they should? Measured in single and in double precision.

    Returns
    -------
    dict
        ``layers`` (how many of a kind have an adapter, which were refused and why), and for each precision the largest
        differences of outputs, relative to the largest output: ``injected``, ``moved`` (by three steps, after which
        the layers have the ``ranks``), ``saved``, ``merged``, ``reloaded``; the ``bound`` for rounding; ``plain`` (no
        adapter is left after merging); and the training step, of plain descent without truncation: ``step`` is what
        the loss falls by, in units of the rate times ||P(W) G||^2.

    Notes
    -----
    Merging moves the sum of weights before the product: each layer rounds sums of at most n products, whose errors
    add up like sqrt(n) eps, and L layers at worst add theirs: ``bound`` is L sqrt(n) eps.
    """
    wanted = Setting(**setting)
    with one_thread():
        network = pretrained(wanted, file)
        taken, refused = adaptable(network, wanted.rank)
        counts = {kind.__name__: sum(isinstance(m, kind) for m in taken.values()) for kind in (nn.Linear, nn.Conv2d)}
        precisions = {str(d).removeprefix("torch."): _checked(wanted, file, d) for d in (torch.float32, torch.float64)}
    return {"layers": counts | {"refused": refused}, **precisions}


def _checked(setting: Setting, file: str, dtype) -> dict:
    def fresh():
        return pretrained(setting, file).to(dtype)

    def adapted(rank, seed):
        network = fresh()
        inject(network, taken, rank, seed)
        return network

    def output(network):
        with torch.no_grad():
            return network(examples.noisy, examples.times, examples.labels)

    def difference(a, b):
        return float((a - b).abs().max() / b.abs().max())

    network = fresh()
    taken, _ = adaptable(network, setting.rank)
    examples = next(subject(setting)[1]["test"].to(dtype).split(8))
    found = {"injected": difference(output(adapted(setting.rank, 0)), output(network))}

    found["step"] = _descent(adapted(setting.rank, 0), examples)

    network = adapted(setting.rank, 0)
    integrator = METHODS["geolora-coarse"].planned(plan(setting, taken))
    list(steps(LowRankOptimizer(network, integrator, 1e-3), [lambda: examples.loss(network)] * 3, blank()))
    trained, found["ranks"] = output(network), sorted(set(ranks(network).values()))
    found["moved"] = difference(trained, output(fresh()))
    with tempfile.TemporaryDirectory() as folder:
        save_low_rank(network, f"{folder}/adapters.safetensors")
        other = adapted(3, 1)
        load_low_rank(other, f"{folder}/adapters.safetensors")
        found["saved"] = difference(output(other), trained)

        merge(network)
        merged = output(network)
        found["merged"] = difference(merged, trained)
        longest = max(m.weight[0].numel() for m in taken.values())
        found["bound"] = len(taken) * math.sqrt(longest) * torch.finfo(dtype).eps
        found["plain"] = [type(m) for m in network.modules()] == [type(m) for m in fresh().modules()]
        network.unet.save_pretrained(folder)
        network.unet = UNet2DConditionModel.from_pretrained(folder, torch_dtype=dtype)
        found["reloaded"] = difference(output(network), merged)
    return found


def _descent(network, examples: Examples) -> float:
    """What a small step of GeoLoRA on these examples lowers the loss by, over rate ||P(W) G||^2: 1 to first order."""
    examples.loss(network).backward()
    squares = {
        f: sum(float(getattr(m, f).grad.square().sum()) for m in low_rank_layers(network).values()) for f in "USV"
    }
    square = squares["U"] + squares["V"] - squares["S"]
    before = held_out_loss(network, examples)
    lr = 1e-3 * before / square
    optimizer = LowRankOptimizer(network, GeoLoRA(truncation=Tolerance(absolute=0.0)), lr)
    list(steps(optimizer, [lambda: examples.loss(network)], blank()))
    return (before - held_out_loss(network, examples)) / (lr * square)
