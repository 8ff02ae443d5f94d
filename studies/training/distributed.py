"""Several processes that train one model together: who they are, and what they tell each other.

Gradients are added up here, in one exchange behind the backward passes, and not by DistributedDataParallel: objectives
call the model's parts (DDP wraps `forward` alone); the losses of all processes already have the denominators of the
whole batch, so that gradients are to be added and not averaged; and what had no gradient in a step (auxiliary heads at
rate 0) takes part as zeros, so that nobody waits for it. Micro-batches cost no exchange of their own.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from studies.config import Recipe
    from studies.data import Data

__all__ = ["ALONE", "World", "check_shared", "join"]


@dataclass(frozen=True)
class World:
    """This process among those that train together. The default is one that is alone; then every exchange is free.

    All processes must make the same calls in the same order.
    """

    rank: int = 0
    size: int = 1
    control: Any = None  # the group for flags and metrics, which must not wait for a GPU

    @property
    def first(self) -> bool:
        """The one that writes."""
        return self.rank == 0

    def share(self, num: int) -> slice:
        """The rows of a batch of `num` that are this process's."""
        return slice(num * self.rank // self.size, num * (self.rank + 1) // self.size)

    @property
    def turns(self) -> slice:
        """Of a sequence of batches, those that are this process's."""
        return slice(self.rank, None, self.size)

    def add(self, tensors: list[Tensor]) -> None:
        """Each of `tensors`, all of one type, becomes its sum over all processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def add_gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> None:
        """Adds up gradients, and `loss` [] with them. A gradient that is None (its module had no part in the step, in
        no process) stays None."""
        if self.size > 1:
            self.add([*(torch.zeros_like(p) if p.grad is None else p.grad for p in parameters), loss])

    def total(self, counts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """`counts` [] of all processes together."""
        if self.size == 1:
            return counts
        sums = torch.stack([count.double() for count in counts.values()])  # exact beyond 2**24
        dist.all_reduce(sums)
        return {name: new.to(old.dtype) for (name, old), new in zip(counts.items(), sums, strict=True)}

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Each of `tensors` becomes what it is in the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def any(self, *flags: bool) -> list[bool]:
        """Which of `flags` are set in any process."""
        if self.size == 1:
            return list(flags)
        found = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.control)
        return [bool(flag) for flag in found.tolist()]

    def gather(self, rows: Tensor) -> Tensor:
        """`rows` [n, ...] on the CPU, n its own in each process -> those of all processes, one behind the other."""
        if self.size == 1:
            return rows
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(rows)
        dist.all_reduce(lengths, group=self.control)
        padded = rows.new_zeros(int(lengths.max()), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self.control)
        return torch.cat([part[:length] for part, length in zip(parts, lengths.tolist(), strict=True)])

    def gather_rows(self, rows: list[Any]) -> list[Any]:
        """`rows`, each something that JSON can say (bytes as text) -> those of all processes, one behind the other."""
        if self.size == 1:
            return rows
        text = "".join(json.dumps(row, default=bytes.decode) + "\n" for row in rows).encode()
        whole = self.gather(torch.from_numpy(np.frombuffer(text, np.uint8).copy()))
        return [json.loads(line) for line in whole.numpy().tobytes().splitlines()]

    def gather_items(self, columns: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Columns [n, ...] of all processes, in the order of the column `item`."""
        whole = {name: self.gather(column) for name, column in columns.items()}
        order = whole["item"].argsort(stable=True)
        return {name: column[order].numpy() for name, column in whole.items()}


ALONE = World()


def join(device: str) -> World:
    """Meet the other processes of this job, where there are any: tasks of a submitit job, or processes of torchrun.
    NCCL on CUDA (and this process takes the GPU of its local rank), gloo on the CPU."""
    global _world
    if _world is None:
        _world = _meet(device)
    return _world


_world: World | None = None  # torch has one of these per process, too


def _meet(device: str) -> World:
    if "SUBMITIT_EXECUTOR" in os.environ:
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        if JobEnvironment().num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("nccl" if on_gpu else "gloo")
    atexit.register(dist.destroy_process_group)
    return World(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo") if on_gpu else None)


def check_shared(data: Data, recipe: Recipe | None, size: int) -> None:
    """Raise ValueError where one of `size` processes would be without an image."""
    shares = {"test images": data.num_test}
    if data.num_val:
        shares["validation images"] = data.num_val
    if recipe is not None:
        shares["images of a batch"] = recipe.batch_size // recipe.accumulate
    for what, num in shares.items():
        if num < size:
            raise ValueError(f"{size} processes cannot share {num} {what}: each needs one; start at most {num}")
