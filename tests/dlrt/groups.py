"""Processes of tests that train one network together."""

import time
from contextlib import contextmanager

import torch
import torch.distributed as dist


@contextmanager
def member_of_two(index, folder):
    """One of two processes that meet by a file in a folder, on one thread."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=2)
    yield
    # torch ends gloo's threads while it holds the GIL, for which a thread that lets go of the last tensors may wait
    time.sleep(0.5)
    dist.destroy_process_group()
