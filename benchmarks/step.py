"""Full training steps (forward, backward, optimiser) of several methods on the same network and batch.

On a GPU the network is in bfloat16 under autocast, the factors are in float32, and AdamW is torch's fused one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dlrt.nn import LowRankOptimizer, adapt
from dlrt.nn.model import low_rank_layers
from integrators import SGD, Adam, FixedRank, GeoLoRA, GlobalBudget, Momentum, Spectral, Tolerance

TARGETS = ["query", "key", "value", "output", "up", "down"]


class Block(nn.Module):
    """A transformer block with six linear layers of their own."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        """(batch, tokens, width)."""
        z = self.norm1(x)
        q, k, v = (f(z).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        z = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.output(z.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


def transformer(layers: int = 6, width: int = 384) -> nn.Module:
    """Six linear layers to adapt in each block; by default 36, of 10.6 million parameters."""
    torch.manual_seed(0)
    return nn.Sequential(*(Block(width, width // 64) for _ in range(layers)))


class Single(nn.Module):
    """One linear layer, called as part of a network: the gradient by its input is needed too."""

    def __init__(self, n: int, m: int):
        super().__init__()
        self.query = nn.Linear(n, m)

    def forward(self, x):
        """(tokens, n) to (tokens, m)."""
        return self.query(x)


def step_of(
    model: nn.Module, optimizer, x: torch.Tensor, target: torch.Tensor, after=lambda: None
) -> Callable[[], None]:
    """One training step on the mean square error as a function of no arguments."""

    def step():
        optimizer.zero_grad()
        loss_of(model, x, target).backward()
        optimizer.step()
        after()

    return step


def loss_of(model, x, target):
    """The mean square error, on a GPU under autocast."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type != "cpu"):
        return nn.functional.mse_loss(model(x).float(), target)


def adamw(parameters):
    """AdamW of all that is trained; fused on a GPU."""
    trained = [p for p in parameters if p.requires_grad]
    return torch.optim.AdamW(trained, 1e-3, fused=trained[0].device.type != "cpu")


def lora(model, rank):
    """PEFT's LoRA with AdamW."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS))
    return model, adamw(model.parameters())


def adalora(model, rank, steps=10**6):
    """PEFT's AdaLoRA with AdamW, regulariser and allocation in every step."""
    from peft import AdaLoraConfig, get_peft_model

    config = AdaLoraConfig(
        init_r=rank, target_r=max(1, rank // 2), lora_alpha=rank, target_modules=TARGETS, deltaT=1, tinit=1,
        tfinal=1, total_step=steps,
    )  # fmt: skip
    model = get_peft_model(model, config)
    return model, adamw(model.parameters())


def geolora(model, rank, optimizer=None, held=False, budget=False, **options):
    """GeoLoRA whose ranks adapt, up to ``rank``, are held there, or share a budget of as many parameters."""
    adapt(model, TARGETS[:1] if isinstance(model, Single) else TARGETS, rank)
    truncation = FixedRank(rank) if held else Tolerance(relative=0.1, max_rank=rank, spare=1)
    if budget:
        cost = sum(sum(layer.Y.shape) for layer in low_rank_layers(model).values())
        truncation = GlobalBudget(parameters=rank * cost, fisher=0.98)
    integrator = GeoLoRA(truncation=truncation, optimizer=optimizer or SGD())
    lr = 1e-3 if isinstance(optimizer, Adam | Spectral) else 1e-1
    return model, LowRankOptimizer(model, integrator, lr, **options)


def full(model, rank):
    """All parameters by AdamW."""
    return model, adamw(model.parameters())


METHODS: dict[str, Callable] = {
    "lora": lora,
    "adalora": adalora,
    "geolora": geolora,
    "geolora held": lambda m, r: geolora(m, r, held=True),
    "geolora momentum": lambda m, r: geolora(m, r, Momentum(0.9)),
    "geolora adam": lambda m, r: geolora(m, r, Adam()),
    "geolora spectral": lambda m, r: geolora(m, r, Spectral(), held=True),
    "geolora spectral budget": lambda m, r: geolora(m, r, Spectral(), budget=True),
    "geolora 10 S-steps": lambda m, r: geolora(m, r, coefficient_steps=10, coefficient_lr=1e-3),
    "full": full,
}


def make(method: str, network: str, rank: int, tokens: int, device: str = "cpu") -> Callable[[], None]:
    """The training step of a method on ``"transformer"`` or on one layer of shape ``"768x3072"`` (m x n).

    ``"transformer-1024"`` is one of width 1024 and four blocks. The step has its ``ranks`` as an attribute.
    """
    if network.startswith("transformer"):
        wide = int(network.partition("-")[2] or 384)
        base, shape = transformer(6 if wide == 384 else 4, wide), (tokens // 128, 128, wide)
    else:
        wide, n = (int(s) for s in network.split("x"))
        torch.manual_seed(0)
        base, shape = Single(n, wide), (1, tokens, n)
    base = base.to(device, torch.float32 if device == "cpu" else torch.bfloat16)
    model, optimizer = METHODS[method](base, rank)
    x = torch.randn(*shape).to(device).requires_grad_()
    target = torch.randn(*shape[:-1], wide).to(device)
    if method != "adalora":
        step = step_of(model, optimizer, x, target)
        step.ranks = lambda: sorted(layer.rank for layer in low_rank_layers(model).values())  # type: ignore[attr-defined]
        return step
    inner, count = model.base_model, [1]

    def step():
        optimizer.zero_grad()
        (loss_of(model, x, target) + _orthogonality(model)).backward()
        optimizer.step()
        inner.update_and_allocate(count[0])
        count[0] += 1

    step.ranks = list  # type: ignore[attr-defined]
    return step


def _orthogonality(model):
    """PEFT's regulariser, which it adds only to losses that a model returns."""
    total, number = 0.0, 0
    for name, p in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = p @ p.T if "lora_A" in name else p.T @ p
            total, number = total + torch.norm(gram - torch.eye(len(gram), device=gram.device), p="fro"), number + 1
    return 0.5 * total / number
