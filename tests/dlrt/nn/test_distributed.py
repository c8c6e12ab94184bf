"""Two processes with half of the batch each take the steps of one with the whole batch."""

import functools

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from dlrt.nn import (
    Factor,
    LinearAdapter,
    LowRankLinear,
    LowRankOptimizer,
    distributed,
    prepare_distributed,
    ranks,
)
from integrators import AugmentedBUG, GeoLoRA, Momentum, Tolerance
from tests.dlrt.groups import member_of_two

TAU = Tolerance(relative=0.02, spare=1)
CASES = {
    "geolora": lambda: GeoLoRA(truncation=TAU, optimizer=Momentum(0.5)),
    "augmented bug": lambda: AugmentedBUG(truncation=TAU),
}
STEPS = 6


def network(seed, head):
    torch.manual_seed(seed)
    layers = [LowRankLinear(10, 12, rank=2, bias=head), nn.Tanh(), LinearAdapter(nn.Linear(12, 12), rank=2), nn.Tanh()]
    layers.append(nn.Linear(12, 4) if head else LowRankLinear(12, 4, rank=2, bias=False))
    model = nn.Sequential(*layers)
    return model.double()


def batch(k, part=slice(None)):
    g = torch.Generator().manual_seed(k)
    return torch.randn(16, 10, generator=g, dtype=torch.float64)[part], torch.randint(0, 4, (16,), generator=g)[part]


def train(model, case, part=slice(None), clip=0.5):
    """Losses of the whole batch, ranks, and the maximal norm that clipping saw."""
    optimizer = LowRankOptimizer(model, CASES[case](), 0.2, rest=functools.partial(torch.optim.SGD, lr=0.2))
    losses, seen = [], []
    for k in range(STEPS):
        x, y = batch(k, part)

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            (loss / 2).backward()
            nn.functional.cross_entropy(model(x), y).div(2).backward()  # gradient accumulation
            if clip is not None:
                seen.append(float(nn.utils.clip_grad_norm_(model.parameters(), clip)))
            return loss.detach()

        loss = optimizer.step(closure)
        if dist.is_initialized():
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        losses.append(float(loss))
    return losses, list(ranks(model).values()), seen


def with_ddp(model):
    """Prepared, and wrapped by somebody else."""
    prepare_distributed(model)
    return DistributedDataParallel(model)


def with_fsdp(model):
    """Prepared, and all but the factors sharded."""
    prepare_distributed(model)
    return fully_shard(model, ignored_params={p for p in model.parameters() if isinstance(p, Factor)})


def process(index, folder, case, head, wrap):
    with member_of_two(index, folder):
        model = wrap(network(index, head))  # the second process starts elsewhere
        result = train(model, case, slice(8 * index, 8 * index + 8), clip=None if wrap is with_fsdp else 0.5)
        state = {
            name.removeprefix("module."): X.full_tensor() if isinstance(X, DTensor) else X
            for name, X in model.state_dict().items()
        }
        torch.save((result, state), f"{folder}/{index}.pt")


@pytest.mark.parametrize(
    ("case", "head", "wrap"),
    [
        ("geolora", True, distributed),
        ("augmented bug", True, distributed),
        ("geolora", False, distributed),
        ("geolora", True, with_ddp),
        ("augmented bug", True, with_fsdp),
    ],
)
def test_two_processes_are_one(case, head, wrap, tmp_path):
    """Losses, norms and ranks as with one process; the factors equal bit for bit on both."""
    mp.spawn(process, (str(tmp_path), case, head, wrap), nprocs=2)
    (first, state), (second, other) = (torch.load(tmp_path / f"{i}.pt") for i in range(2))
    assert first == second
    for name in state:
        if name.rpartition(".")[2] in "USV" or head:
            assert torch.equal(state[name], other[name]), name
    model = network(0, head)
    losses, expected_ranks, seen = train(model, case, clip=None if wrap is with_fsdp else 0.5)
    assert first[1] == expected_ranks and expected_ranks != [2, 2] + [2] * (not head)
    torch.testing.assert_close(torch.tensor(first[0]), torch.tensor(losses), rtol=1e-10, atol=0)
    torch.testing.assert_close(torch.tensor(first[2]), torch.tensor(seen), rtol=1e-10, atol=0)


def test_errors(tmp_path):
    with pytest.raises(RuntimeError, match="needs a process group"):
        distributed(network(0, True))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="no low-rank layer"):
            distributed(nn.Linear(2, 2))
        layer = LowRankLinear(4, 3, rank=2)  # a model that is a low-rank layer: its bias alone is left to the wrapper
        assert distributed(layer)._build_params_for_reducer()[0] == [layer.bias]
        model = network(0, True)
        model[2].S.requires_grad_(False)  # one that is not trained is passed over
        distributed(model)
        assert [p.is_averaged for layer in (model[0], model[2]) for p in layer.factors] == [True] * 4 + [False, True]
        with pytest.raises(RuntimeError, match="twice with the layer 0"):
            distributed(model)
    finally:
        dist.destroy_process_group()
