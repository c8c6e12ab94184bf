"""Train and fine-tune networks by all methods alike: data, methods, the training loop, comparisons.

The modules ``digits`` and ``diffusion`` hold what is particular to these two networks and their data; ``files``,
``options`` and ``command`` are what ``dlrt finetune`` does with the networks and files of others; ``peft`` is a tuner
for PEFT and transformers, ``trainer`` the Trainer of transformers.
"""

from .comparison import compare, times
from .data import CHANGED, IMAGES, SENTENCES, Setting, Task, load
from .loop import accuracy, fine_tune, steps, time_steps, warm_up_and_decay
from .methods import METHODS, Method, Plan, Prepared, prepare, size

__all__ = [
    "CHANGED", "IMAGES", "METHODS", "SENTENCES", "Method", "Plan", "Prepared", "Setting", "Task", "accuracy", "compare",
    "fine_tune", "load", "prepare", "size", "steps", "time_steps", "times", "warm_up_and_decay",
]  # fmt: skip
