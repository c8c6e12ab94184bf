"""A training loop with accelerate: `accelerate launch with_accelerate.py FILE`.

The method needs two backward passes per step, hence the closure; GeoLoRA takes `backward` and `step()` as usual.
"""

import sys

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch import nn

from dlrt.nn import LowRankOptimizer, adapt, prepare_distributed, ranks, save_low_rank
from integrators import AugmentedBUG, Tolerance


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3))


def examples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(128, 20, generator=generator)
    return torch.utils.data.TensorDataset(x, (x[:, :3] ** 2).argmax(-1))


def main(file):
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
    model = network()
    adapt(model, "2", rank=4, trainable="4")
    if accelerator.num_processes > 1:
        prepare_distributed(model)  # before the model is wrapped and the optimiser is made
    optimizer = LowRankOptimizer(model, AugmentedBUG(truncation=Tolerance(relative=0.1)), lr=0.5)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 24)
    loader = torch.utils.data.DataLoader(examples(), batch_size=32)
    # A model that trains adapters alone: accelerator.prepare_model(model, evaluation_mode=True), without which torch's
    # DistributedDataParallel says that there is nothing to do.
    model, optimizer, schedule, loader = accelerator.prepare(model, optimizer, schedule, loader)

    for _ in range(6):
        for x, y in loader:

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                return loss.detach()

            optimizer.step(closure)
            schedule.step()
    accelerator.print(ranks(model))
    if accelerator.is_main_process:
        save_low_rank(accelerator.unwrap_model(model), file)
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1])
