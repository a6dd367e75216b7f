"""One process or many: what `torchrun --nproc-per-node 8 -m course_utils.recipes NAME` adds to a training.

Every process has the whole model and takes batches of its own. Their gradients are averaged during the
backward pass (torch's DistributedDataParallel, Li et al. 2020), so N processes with batches of B images walk
as one with batches of N B would: the same number of steps, N times the images. The first of them writes and
speaks.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(minutes=10)  # with the others; then a process gives up, and says so


def rank() -> int:
    """The number of this process, 0 for the first or the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def n_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Joins the processes that torchrun has started, one to a card, or all on the CPU; alone does nothing."""
    if "LOCAL_RANK" not in os.environ:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """The first process does what is inside alone, then all the others do it."""
    if rank():
        dist.barrier()
    yield
    if n_processes() > 1 and not rank():
        dist.barrier()


class Share:
    """Of each N batches that follow one another in `batches`, the one of this process."""

    def __init__(self, batches):
        self.batches = batches

    def __getitem__(self, step: int) -> Tensor:
        return self.batches[step * n_processes() + rank()]


class Objective(nn.Module):
    """An objective as a module, which is what DistributedDataParallel can wrap."""

    def __init__(self, model: nn.Module, objective: Callable):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, x: Tensor):
        return self.objective(self.model, x)


def shared(model: nn.Module, objective: Callable, batches, start: int) -> tuple[Callable, object]:
    """(x -> objective(model, x), batches) for this process; the gradient is the mean over all of them.

    The weights become those of the first process, and the noise from step `start` on is each one's own. On
    cards, batch norm takes its mean and variance over the batches of all (SyncBatchNorm; torch has none for
    the CPU, where each process normalises by itself).
    """
    if n_processes() == 1:
        return partial(objective, model), batches
    on_card = next(model.parameters()).is_cuda
    if on_card:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    cards = [torch.cuda.current_device()] if on_card else None
    together = DistributedDataParallel(Objective(model, objective), device_ids=cards)
    if rank():  # the first one has the noise of a single process
        torch.manual_seed(torch.initial_seed() + 1_000_003 * rank() + start)
    return together, Share(batches)
