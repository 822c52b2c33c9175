"""Several processes that train together: `torchrun --nproc-per-node 2 -m U2ADLib adapt …`.

Every process draws the same random numbers for the whole batch and computes its part of it. A process that is told to
stop does not leave the others waiting: the wish travels with the next sum, and all stop at the same step.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from ..errors import Cancelled, InstallationError, U2ADError
from ..progress import Progress

# The first process reads images and looks for cords while the others wait for it.
PATIENCE = timedelta(hours=12)
CANCELLED, FAILED = "cancelled", "failed"


class Team:
    """The processes that train together; alone, one process is a team of itself."""

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | str = "cpu"):
        """:param device: where this process computes."""
        self.rank, self.size, self.device = rank, size, torch.device(device)
        self._cancelled: Cancelled | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Which of `count` things are this process's; shares differ by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def watched(self, progress: Progress) -> Progress:
        """The callback, with a cancellation put off until the others hear of it (`total`)."""
        if self.size == 1:
            return progress

        def report(stage, done, total):
            try:
                progress(stage, done, total)
            except Cancelled as cancelled:
                self._cancelled = cancelled

        return report

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of a float tensor over all processes. :raises Cancelled: one of them was told to stop."""
        if self.size == 1:
            return values
        flag = values.new_tensor([float(self._cancelled is not None)])
        both = torch.cat([values.detach().flatten(), flag])
        dist.all_reduce(both)
        if both[-1] > 0:
            raise self._cancelled or Cancelled()
        return both[:-1].view_as(values)

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network as it is called in a step: its gradients become the mean of those of all processes."""
        if self.size == 1:
            return network
        return torch.nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)

    def from_first(self, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays that `make` returns in the first process, in all processes; only the first one calls it.

        :raises U2ADError: it failed; in the first process whatever was raised there.
        """
        if self.size == 1:
            return make()
        arrays: dict[str, np.ndarray] = {}
        failure: BaseException | None = None
        message: list = [FAILED]
        if self.first:
            try:
                arrays = make()
                message = [[(name, values.shape, values.dtype.str) for name, values in arrays.items()]]
            except BaseException as error:  # the others must not wait for ever, whatever it is
                failure = error
                message = [CANCELLED if isinstance(error, Cancelled) else FAILED]
        dist.broadcast_object_list(message, src=0, device=torch.device("cpu"))
        if failure is not None:
            raise failure
        if message[0] in (CANCELLED, FAILED):
            raise Cancelled() if message[0] == CANCELLED else U2ADError("The first process stopped and says why.")
        for name, shape, kind in message[0]:
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            blob = np.frombuffer(arrays[name].tobytes(), np.uint8).copy() if self.first else np.empty(size, np.uint8)
            dist.broadcast(torch.from_numpy(blob), src=0)
            arrays[name] = blob.view(kind).reshape(shape)
        return arrays


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """The team that torchrun started this process in, or a team of one. On GPUs each process takes one of its own.

    :raises InstallationError: torch cannot connect the processes.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Team(device=device)
        return
    if not dist.is_available():
        raise InstallationError("This build of torch cannot train in several processes: start it without torchrun.")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    try:
        # Images travel by way of the CPU, gradients by that of the GPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise InstallationError(f"The processes could not be connected: {error}") from None
    try:
        yield Team(dist.get_rank(), size, device)
        # The first process may still be writing, and torchrun ends all when one of them ends badly.
        dist.barrier()
    finally:
        gc.collect()  # a wrapped network that outlives its connection aborts the process, now and then
        dist.destroy_process_group()
