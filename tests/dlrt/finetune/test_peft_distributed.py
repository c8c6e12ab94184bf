"""Adapters of PEFT in two processes with half of the batch each: the steps of one process with the whole batch."""

import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

peft = pytest.importorskip("peft")

from dlrt.finetune.peft import GeoloraConfig, make_optimizer  # noqa: E402
from dlrt.nn import prepare_distributed, ranks  # noqa: E402

STEPS = 6


def network(seed):
    torch.manual_seed(0)  # of the pretrained layers
    model = nn.Sequential(nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 4))
    torch.manual_seed(seed)
    config = GeoloraConfig(r=3, method="geolora", tau=0.3, target_modules=["0", "2"], modules_to_save=["4"])
    return peft.get_peft_model(model, config).double()


def train(model, part=slice(None)):
    """Losses of the whole batch, and ranks."""
    optimizer, losses = make_optimizer(model, lr=0.05), []
    for k in range(STEPS):
        g = torch.Generator().manual_seed(k)
        x, y = (
            torch.randn(16, 10, generator=g, dtype=torch.float64)[part],
            torch.randint(0, 4, (16,), generator=g)[part],
        )
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        loss = loss.detach()
        if dist.is_initialized():
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        losses.append(float(loss))
    return losses, ranks(model)


def process(index, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=2)
    model = network(index)  # the second process starts elsewhere
    prepare_distributed(model)
    result = train(DistributedDataParallel(model), slice(8 * index, 8 * index + 8))
    torch.save((result, model.state_dict()), f"{folder}/{index}.pt")
    # torch ends gloo's threads while it holds the GIL, for which a thread that lets go of the last tensors may wait
    time.sleep(0.5)
    dist.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    """Losses and ranks as with one process; all that is trained equal bit for bit on both."""
    mp.spawn(process, (str(tmp_path),), nprocs=2)
    (first, state), (second, other) = (torch.load(tmp_path / f"{i}.pt") for i in range(2))
    assert first[0] == second[0] and list(first[1].values()) == list(second[1].values())
    assert all(torch.equal(state[name], other[name]) for name in state)
    losses, expected = train(network(0))
    assert list(first[1].values()) == list(expected.values()) != [3, 3]
    torch.testing.assert_close(torch.tensor(first[0]), torch.tensor(losses), rtol=1e-10, atol=0)
