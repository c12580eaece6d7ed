"""Several processes train as one: each takes its part of the batch, their gradients are averaged.

`accelerate` starts the processes and joins them; what they say to each other is below. Every
function does nothing, and costs nothing, where there is one process.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Processes:
    """This process (`index` of `count`) and the device it trains on."""

    index: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files."""
        return self.index == 0

    def wait(self) -> None:
        """Until all processes have come as far."""
        if self.count > 1:
            distributed.barrier()


def join_processes() -> Processes:
    """Join the group that `accelerate launch` started; without one, this process is all."""
    has_cuda = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(0, 1, torch.device("cuda" if has_cuda else "cpu"))
    from accelerate import PartialState

    state = PartialState(cpu=not has_cuda)
    return Processes(state.process_index, state.num_processes, state.device)


def leave_processes() -> None:
    """Close the connections of the group, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


class _Total(torch.autograd.Function):
    """The sum over all processes. Its gradient is the sum of what all of them made of it."""

    @staticmethod
    def forward(_: Any, given: Tensor) -> Tensor:
        total = given.detach().clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def _count() -> int:
    there = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if there else 1


def mean_over_processes(given: Tensor) -> Tensor:
    """The mean over all processes, with gradients."""
    count = _count()
    if count == 1:
        return given
    mean: Tensor = _Total.apply(given) / count  # type: ignore[no-untyped-call]
    return mean


def gather_rows(given: Tensor) -> Tensor:
    """(B, …) of each process -> (processes · B, …) of all, in their order, with gradients.

    A loss over the gathered rows is the same number in every process. Averaged as
    `average_gradients` does, its gradient is that of one process with the whole batch.
    """
    count = _count()
    if count == 1:
        return given
    before = distributed.get_rank() * len(given)
    after = count * len(given) - before - len(given)
    placed = torch.cat([given.new_zeros(n, *given.shape[1:]) for n in (before, after)])
    placed = torch.cat([placed[:before], given, placed[before:]])
    gathered: Tensor = _Total.apply(placed)  # type: ignore[no-untyped-call]
    return gathered


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """Average the gradients over all processes in place; the mean of their losses comes back."""
    count = _count()
    if count == 1:
        return loss
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # One message for all: gradients are many and mostly small.
    flat = torch.cat([loss.float().reshape(1), *[g.float().flatten() for g in gradients]])
    distributed.all_reduce(flat)
    flat /= count
    parts = torch.split(flat[1:], [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))
    return flat[0]


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Normalises by the mean and variance over the batch of all processes.

    `nn.SyncBatchNorm` does so on CUDA only.
    """

    def forward(self, given: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, normalised; all processes must bring equally many rows."""
        if not self.training:
            return super().forward(given)
        values = given.to(torch.promote_types(given.dtype, torch.float32))
        mean = mean_over_processes(values.mean((0, 2, 3)))
        centred = values - mean[:, None, None]
        variance = mean_over_processes(centred.square().mean((0, 2, 3)))
        self._remember(mean.detach(), variance.detach(), _count() * values[:, 0].numel())
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(given.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / max(1, count - 1), momentum)


def share_batch_norms(module: nn.Module) -> None:
    """Make every batch norm in `module` look at the batch of all processes, from now on."""
    for layer in module.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = SharedBatchNorm2d  # the same weights and buffers, another forward
