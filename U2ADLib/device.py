"""The device a computation runs on: one code path for all of them."""

import torch

from .errors import InstallationError, UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """The torch device of that name; `auto` takes a CUDA GPU, then Apple's, then the CPU.

    :raises UsageError: unknown name. :raises InstallationError: the device is not available on this computer.
    """
    if name not in DEVICES and not name.startswith("cuda:"):
        raise UsageError(f"Unknown device {name!r}: choose one of {', '.join(DEVICES)}.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InstallationError("No CUDA GPU can be used: install a CUDA build of torch, or choose --device cpu.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise InstallationError("Apple's GPU cannot be used on this computer: choose --device cpu.")
    return torch.device(name)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device. Nothing else is ever retried."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "MPS backend out of memory" in text)


def available() -> list[dict]:
    """The devices of this computer, the fastest first: {"device", "name"}; of a CUDA GPU "free_gb", "total_gb", too."""
    found = []
    for k in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = (round(size / 2**30, 1) for size in torch.cuda.mem_get_info(k))
        name = torch.cuda.get_device_name(k)
        found.append({"device": f"cuda:{k}", "name": name, "free_gb": free, "total_gb": total})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU"})
    return [*found, {"device": "cpu", "name": f"CPU, {torch.get_num_threads()} threads"}]


def describe(device: torch.device) -> str:
    """For a person and for the provenance: `cpu (2 threads)` or `cuda: NVIDIA …`."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return device.type
