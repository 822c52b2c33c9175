"""How every rival with gradient steps learns: one loop under a budget, resumable, and one way to keep what was learnt.

Everything random in a step comes from generators seeded with (seed, step), the libraries' own random numbers included,
so weights, optimisers and the step's number are the whole state: with a budget in steps, a training that was killed and
resumed ends in the same weights.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from hashlib import sha256
from importlib.util import find_spec
from math import cos, isfinite, pi
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import Cancelled, ModelError, U2ADError
from ..files import file_sha256, staged, write_json
from ..training.checkpoint import load_state, network_tensors, save_state, with_prefix
from ..training.data import SliceSet, sampling_weights
from ..training.step import fingerprint, write_table
from .detector import SOURCE, TARGET, Budget, Training, TrainingSlices, settings_of, trained
from .pace import check_budget, seconds_computed

WEIGHTS, RECORD = "weights.safetensors", "rival.json"
SAVE_SECONDS = 60.0  # of computing, at least, between two states on disk
ROWS = 200  # of `curves.csv`, at most; states are saved where a row ends
WARMUP_STEPS, WARMUP_SHARE = 50, 0.05  # the learning rate rises over so many steps, at most so much of the budget

Networks = dict[str, torch.nn.Module]
Step = Callable[[torch.Tensor, torch.Generator], dict[str, torch.Tensor]]


def learn(
    networks: Mapping[str, torch.nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    step: Step,
    slices: TrainingSlices,
    training: Training,
    *,
    batch: int,
    recipe: dict,
    clock: Callable[[torch.device], float] | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> list[dict]:
    """Take steps until the budget is used, or go on where `training.folder` says it stopped. One that has used its
    budget is only read. The learning rates fall from those of the optimisers to 0 along half a cosine over the budget,
    after a short warm-up.

    :param networks: by name, on the training's device; changed in place. All are kept in the state: one without an
        optimiser must still be what it was when the state was written.
    :param optimisers: fresh Adam or AdamW, each of the parameters of the network of the same name. Their networks are
        in training mode meanwhile, the others are left as they are; in the end all are in evaluation mode.
    :param step: takes the numbers of the slices of a batch, (batch,) on the device, and a generator there; takes an
        optimiser step (`training.step.descend`), and returns its losses, scalars with the same names every time.
    :param batch: slices in a step; every person is drawn equally often.
    :param recipe: JSON-able; what else the result depends on: method, settings, starting weights.
    :param clock: seconds of computing on a device, by default as `detector.Budget` counts them.
    :returns: rows of `curves.csv`: step, minutes, rate (of the first optimiser) and the losses' means since the row
        before.
    :raises ModelError: the folder holds the state of another training, or of one beside another network.
    :raises U2ADError: the loss is not finite.
    """
    check_budget(training.budget)
    device, clock = torch.device(training.device), clock or seconds_computed
    weights = sampling_weights(_as_slice_set(slices), real_share=1.0)
    recipe = _plain(
        {
            **recipe,
            "stage": training.stage,
            "seed": training.seed,
            "budget": asdict(training.budget),
            "batch": batch,
            "data": fingerprint(_as_slice_set(slices), cords=True),
        }
    )
    rates = {name: [group["lr"] for group in one.param_groups] for name, one in optimisers.items()}
    number, seconds, rows = _resume(training, recipe, networks, optimisers)
    for name in optimisers:
        networks[name].train()
    started = saved = clock(device)
    started -= seconds
    fraction, sums, since = used(training.budget, number, seconds), None, 0

    def keep():
        record = {"epoch": number, "seconds": clock(device) - started, "rows": rows, "recipe": recipe}
        save_state(training.folder, _state(networks, optimisers), record)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        write_table(training.folder / "curves.csv", columns, rows)

    # Libraries draw from torch's global generators: what they do there is undone in the end.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while fraction < 1:
            try:
                training.progress("Training", *_progress(training.budget, number, fraction))
            except Cancelled:
                keep()
                raise
            factor = _warm_up(number, fraction) * (1 + cos(pi * fraction)) / 2
            for name, optimiser in optimisers.items():
                for group, rate in zip(optimiser.param_groups, rates[name], strict=True):
                    group["lr"] = rate * factor
            rng = np.random.default_rng([training.seed, number])
            chosen = torch.from_numpy(rng.choice(len(slices), batch, p=weights)).to(device)
            drawn = int(rng.integers(2**62))
            torch.manual_seed(drawn)
            losses = step(chosen, torch.Generator(device).manual_seed(drawn))
            values = torch.stack([value.detach().float() for value in losses.values()])
            sums, since, number = values if sums is None else sums + values, since + 1, number + 1
            now = clock(device)
            before, fraction = fraction, used(training.budget, number, now - started)
            if int(before * ROWS) < int(fraction * ROWS) or fraction >= 1:
                means = dict(zip(losses, (sums / since).tolist(), strict=True))
                if not all(isfinite(value) for value in means.values()):
                    raise U2ADError(
                        f"The training in {training.folder.name} has diverged after {number} steps: give its method a "
                        "smaller learning rate."
                    )
                rate = next(iter(optimisers.values())).param_groups[0]["lr"]
                rows.append({"step": number, "minutes": round((now - started) / 60, 4), "rate": rate, **means})
                sums, since = None, 0
                if now - saved >= save_seconds or fraction >= 1:
                    keep()
                    saved = now
    training.progress("Training", *_progress(training.budget, number, 1.0))
    for network in networks.values():
        network.eval()
    return rows


def used(budget: Budget, steps: int, seconds: float) -> float:
    """The share of a budget that is used, 1 or more where it is used up."""
    limits = [] if budget.steps is None else [steps / max(budget.steps, 1)]
    return max(limits if budget.minutes is None else [*limits, seconds / max(60 * budget.minutes, 1e-9)])


def mixed_precision(device: torch.device | str):
    """A context for the forward passes of a training: bfloat16 where it is fast, on a GPU; else nothing."""
    device = torch.device(device)
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


@contextmanager
def frozen(network: torch.nn.Module) -> Iterator[None]:
    """Gradients go through the network, and none to its parameters."""
    parameters = [one for one in network.parameters() if one.requires_grad]
    for one in parameters:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in parameters:
            one.requires_grad_(True)


class LearnedRival:
    """A method with networks: builds them, trains them by `learn`, keeps, saves and loads them.

    A subclass names itself, has a frozen dataclass of settings, and defines `build` and `train`.
    """

    name: ClassVar[str]
    learns: ClassVar[bool] = True
    supervised: ClassVar[bool] = False
    settings_type: ClassVar[type]
    presets: ClassVar[Mapping[str, Mapping]] = {}  # settings by the name of a preset
    of_maps: ClassVar[frozenset[str]] = frozenset()  # settings that do not change what is learnt
    libraries: ClassVar[tuple[str, ...]] = ("monai",)  # that are imported when they are needed

    def __init__(self, preset: str = "full", **settings):
        """:param settings: go before those of the preset.

        :raises UsageError: there is no such preset or setting. :raises ModuleNotFoundError: a library is not there.
        """
        self.settings = settings_of(self.settings_type, self.name, settings, preset, self.presets)
        for library in self.libraries:
            if find_spec(library) is None:
                raise ModuleNotFoundError(f"No module named {library!r}", name=library)
        self.device = "cpu"  # of inference; that of the training after one
        self.source: dict[str, dict[str, torch.Tensor]] | None = None  # weights that a target stage starts from
        self.networks: Networks = {}

    def build(self) -> Networks:
        """The networks, by name, with weights drawn from torch's global generator, which is seeded around it."""
        raise NotImplementedError

    def train(self, networks: Networks, slices: TrainingSlices, training: Training, recipe: dict) -> None:
        """Change the networks by calls of `learn`, each in a folder of its own, with this recipe."""
        raise NotImplementedError

    def fit(self, slices: TrainingSlices, training: Training) -> None:
        """See `detector.Rival`. A target stage starts from what the source stage left or was loaded, else afresh."""
        start = self.source if training.stage == TARGET else None
        networks = self._built(training.seed)
        if start is not None:
            for name, network in networks.items():
                network.load_state_dict(start[name])
        for network in networks.values():
            network.to(training.device)
        recipe = {**self._record(), "start": None if start is None else _checksum(start)}
        self.train(networks, slices, training, recipe)
        self.networks, self.device = networks, training.device
        if training.stage == SOURCE:
            self.source = _weights(networks)

    def trained(self) -> Networks:
        """The networks, on the device of inference. :raises UsageError: nothing was trained or loaded."""
        for network in trained(self.networks, self.name).values():
            network.to(self.device).eval()
        return self.networks

    def save(self, folder: Path) -> None:
        """See `detector.Rival`."""
        tensors = {
            f"{name}.{key}": value.contiguous()
            for name, state in _weights(self.trained()).items()
            for key, value in state.items()
        }
        with staged(Path(folder), [WEIGHTS, RECORD], overwrite=True) as place:
            save_file(tensors, place / WEIGHTS)
            (place / WEIGHTS).chmod(0o644)  # safetensors makes it private
            write_json(place / RECORD, {**self._record(), "sha256": file_sha256(place / WEIGHTS)})

    def load(self, folder: Path) -> None:
        """See `detector.Rival`.

        :raises ModelError: the folder holds nothing, another method, one with other settings, or damaged weights.
        """
        folder = Path(folder)
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            checksum = record.pop("sha256")
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            raise ModelError(f"{folder} does not hold {self.name}: train it again.") from None
        if record != self._record():
            raise ModelError(f"{folder} holds another method than {self.name}, or other settings: choose another.")
        if not (folder / WEIGHTS).is_file() or file_sha256(folder / WEIGHTS) != checksum:
            raise ModelError(f"The weights in {folder} do not match their checksum: train {self.name} again.")
        networks = self._built(0)
        try:
            tensors = load_file(folder / WEIGHTS)
            for name, network in networks.items():
                network.load_state_dict(with_prefix(tensors, f"{name}."))
        except (SafetensorError, RuntimeError) as error:
            raise ModelError(f"The weights in {folder} do not fit {self.name}: {error}") from None
        self.networks = networks  # `trained` puts them where and how they are needed
        self.source = _weights(networks)

    def _built(self, seed: int) -> Networks:
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would change those of the GPUs, too
            return self.build()

    def _record(self) -> dict:
        """What a stored training must have in common with this object."""
        settings = {name: value for name, value in asdict(self.settings).items() if name not in self.of_maps}
        return _plain({"method": self.name, "settings": settings})


def _weights(networks) -> dict[str, dict[str, torch.Tensor]]:
    """Copies on the CPU."""
    return {
        name: {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
        for name, network in networks.items()
    }


def _checksum(weights) -> str:
    digest = sha256()
    for name, state in weights.items():
        for key, value in state.items():
            digest.update(f"{name}.{key}".encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _plain(record: dict) -> dict:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(record))


def _as_slice_set(slices: TrainingSlices) -> SliceSet:
    return SliceSet(slices.images, slices.cords, slices.people, np.zeros(len(slices), bool))


def _state(networks, optimisers) -> dict[str, torch.Tensor]:
    """What `_resume` needs, copied: safetensors refuses tied weights."""
    tensors = {}
    for name, network in networks.items():
        if name in optimisers:
            own = network_tensors(network, optimisers[name])
        else:
            own = {f"network.{key}": value for key, value in network.state_dict().items()}
        tensors |= {f"{name}.{key}": value.clone() for key, value in own.items()}
    return tensors


def _resume(training, recipe, networks, optimisers) -> tuple[int, float, list[dict]]:
    """Put networks and fresh optimisers where the folder's state left them: steps, seconds and rows until there."""
    stored = load_state(training.folder)
    if stored is None:
        return 0, 0.0, []
    tensors, record = stored
    if record["recipe"] != recipe:
        raise ModelError(
            f"{training.folder} holds the state of a training with other data or settings: choose another folder, or "
            "delete it to start again."
        )
    for name, network in networks.items():
        kept = with_prefix(tensors, f"{name}.network.")
        if name in optimisers:
            network.load_state_dict(kept)
            _restore_optimiser(network, optimisers[name], with_prefix(tensors, f"{name}.optimiser."))
        elif any(not torch.equal(value.cpu(), kept[key]) for key, value in network.state_dict().items()):
            # What has been learnt so far fits that network alone.
            raise ModelError(
                f"{training.folder} holds the state of a training beside another {name} than this one: delete it to "
                "start again."
            )
    if used(training.budget, record["epoch"], record["seconds"]) < 1:
        training.say(f"Resuming after {record['epoch']} steps.")
    return record["epoch"], record["seconds"], record["rows"]


def _restore_optimiser(network, optimiser, tensors) -> None:
    """As `training.checkpoint.restore_optimiser`, but parameters that have had no gradient may have no moments."""
    parameters = dict(network.named_parameters())
    for name, value in tensors.items():
        key, _, parameter = name.partition(".")
        # Adam keeps its step counter on the CPU whatever the device of the weights.
        place = "cpu" if key == "step" else parameters[parameter].device
        optimiser.state[parameters[parameter]][key] = value.to(place)


def _warm_up(number: int, fraction: float) -> float:
    return min(1.0, max((number + 1) / WARMUP_STEPS, fraction / WARMUP_SHARE))


def _progress(budget: Budget, number: int, fraction: float) -> tuple[int, int]:
    """Done and total: steps, or seconds where the budget has minutes."""
    if budget.minutes is None:
        return min(number, budget.steps), budget.steps
    total = max(round(60 * budget.minutes), 1)
    return min(int(fraction * total), total), total
