"""A module of Lightning with low-rank adapters: `python with_lightning.py FOLDER 4`, in two processes.

The adapters are those of the layer in the middle, with the last layer trained beside them, or alone without the 4.

Lightning gives each step a closure, so that every method works; only accumulating batches for one that needs several
backward passes does not, and is refused.
"""

import sys

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from dlrt.nn import LowRankOptimizer, adapt, prepare_distributed, ranks
from integrators import AugmentedBUG, Tolerance


class AdaptersAlone(DDPStrategy):
    """For a model that trains nothing else, which torch's DistributedDataParallel would refuse."""

    def configure_ddp(self):
        """Leave the model as it is: `prepare_distributed` has seen to the adapters."""


class Classifier(lightning.LightningModule):
    def __init__(self, integrator, trainable):
        super().__init__()
        torch.manual_seed(0)
        self.integrator = integrator
        self.network = nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3))
        adapt(self.network, "2", rank=4, trainable=trainable)

    def setup(self, stage):
        if stage == "fit" and self.trainer.world_size > 1:
            prepare_distributed(self)  # before Lightning wraps the module

    def training_step(self, batch, index):
        x, y = batch
        loss = nn.functional.cross_entropy(self.network(x), y)
        self.log("loss", loss, sync_dist=True)
        self.log("rank", float(sum(ranks(self).values())))
        return loss

    def configure_optimizers(self):
        optimizer = LowRankOptimizer(self, self.integrator, lr=0.5)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 24)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def examples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(128, 20, generator=generator)
    return torch.utils.data.TensorDataset(x, (x[:, :3] ** 2).argmax(-1))


def fit(folder, integrator, *, trainable="4", batch=32, checkpoint=None, **options):
    model = Classifier(integrator, trainable)
    trainer = lightning.Trainer(
        accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=1.0, **({"max_epochs": 6, "devices": 1} | options),
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader(examples(), batch_size=batch), ckpt_path=checkpoint)
    return trainer


def main(folder, *trainable):
    trainer = fit(
        folder, AugmentedBUG(truncation=Tolerance(relative=0.1)), trainable=trainable, batch=64, max_epochs=24,
        devices=2, strategy="ddp" if trainable else AdaptersAlone(),
    )  # fmt: skip
    trainer.save_checkpoint(f"{folder}/two processes.ckpt")


if __name__ == "__main__":
    main(*sys.argv[1:])
