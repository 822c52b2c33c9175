"""Training state on disk: safetensors plus JSON with a checksum, replaced in one step so that a kill at any moment
leaves the last complete state."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..errors import ModelError
from ..files import file_sha256, write_json


def save_state(folder: Path, tensors: dict[str, torch.Tensor], record: dict) -> None:
    """Save tensors and a JSON-able record. `state.json` names the tensor file and is replaced last."""
    folder.mkdir(parents=True, exist_ok=True)
    tensor_file = folder / f"state-{record['epoch']:05d}.safetensors"
    temporary = tensor_file.with_suffix(".tmp")
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary)
    checksum = file_sha256(temporary)
    os.replace(temporary, tensor_file)
    write_json(folder / "state.json", {**record, "tensors": tensor_file.name, "sha256": checksum})
    for old in folder.glob("state-*.safetensors"):
        if old != tensor_file:
            old.unlink()


def load_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict] | None:
    """The last complete state, or None where there is none.

    :raises ModelError: the state is damaged.
    """
    path = folder / "state.json"
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    tensor_file = folder / record["tensors"]
    if not tensor_file.exists() or file_sha256(tensor_file) != record["sha256"]:
        raise ModelError(f"The training state in {folder} is damaged: delete that folder to start again.")
    return load_file(tensor_file), record


def resume(folder: Path, recipe: dict, network, optimiser) -> tuple[dict[str, torch.Tensor], dict] | None:
    """Put network and (fresh) optimiser where a folder's state left them; its tensors and record, None without one.

    :param recipe: JSON-able; what the training does and with which data, as in the record of `save_state`.
    :raises ModelError: the state is damaged, or that of a training with another recipe.
    """
    stored = load_state(folder)
    if stored is None:
        return None
    tensors, record = stored
    if record["recipe"] != recipe:
        raise ModelError(
            f"{folder} holds the state of a training with other data or settings: choose another --out folder, "
            "or delete it to start again."
        )
    network.load_state_dict(with_prefix(tensors, "network."))
    restore_optimiser(network, optimiser, tensors)
    return tensors, record


def network_tensors(network, optimiser) -> dict[str, torch.Tensor]:
    """What `resume` needs."""
    return {f"network.{k}": v for k, v in network.state_dict().items()} | optimiser_tensors(network, optimiser)


def with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin so, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def optimiser_tensors(network: torch.nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Adam's moments by parameter name."""
    tensors = {}
    for name, parameter in network.named_parameters():
        for key, value in optimiser.state[parameter].items():
            tensors[f"optimiser.{key}.{name}"] = value
    return tensors


def restore_optimiser(network, optimiser, tensors: dict[str, torch.Tensor]) -> None:
    """Inverse of `optimiser_tensors`. The optimiser must be fresh."""
    for name, parameter in network.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors[f"optimiser.{key}.{name}"]
            # Adam keeps its step counter on the CPU whatever the device of the weights.
            optimiser.state[parameter][key] = value if key == "step" else value.to(parameter.device)
