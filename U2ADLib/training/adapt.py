"""Uncertainty-guided adaptation to a hospital's own unlabelled images (paper 3.4, Algorithm 2).

Two stages. *EU*: patches that the network is unsure about are masked more often, so that it learns what it does not
know. *AU*: what it rebuilds badly could be a lesion; those patches are never masked and never in the loss, so that the
network does not learn to rebuild them, while all others are masked at random ("trained as usual", 3.4.2). The maps of
both are made anew every `refresh` epochs. The rules are in `guidance.py`.

As in `pretrain.py`, everything random in an epoch comes from generators seeded with (seed, epoch), and the state on
disk is weights, optimiser, the epoch's number and the map in use: a run that was killed and resumed ends in the same
weights.
"""

import copy
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from ..config import MonteCarloConfig
from ..errors import Cancelled, UsageError
from ..evaluation.reconstruction import reconstruction_quality
from ..mae import EdgeMAE
from ..masking import Masks, masks_from_scores, ring, roi_patches
from ..montecarlo import monte_carlo
from ..pictures.adaptation import adaptation_picture
from ..pictures.charts import line_chart
from ..progress import Progress, no_progress
from ..reconstruction import Reconstruction
from . import augment
from .checkpoint import network_tensors, resume, save_state, with_prefix
from .data import SliceSet, sampling_weights
from .guidance import EU_WEIGHTS, anomalous, eu_scores, patch_sums, touched_patches
from .loss import reconstruction_loss
from .step import descend, fingerprint, rebuild, set_rate, step_decay, validate, warm_up, write_table
from .team import Team

SCHEDULES = ("per-stage", "paper")
QUALITY = ("mse", "psnr", "ssim", "variance")
COLUMNS = (
    "epoch", "stage", "rate", "loss", "mse", "edge", "excluded",
    *(f"adapted_{name}" for name in QUALITY), *(f"held_out_{name}" for name in QUALITY),
)  # fmt: skip
SLICES_AT_ONCE = 64  # of a refresh; a process of a team takes every n-th such part
REFRESH_COST = 6  # a slice's Monte Carlo takes so many times as long as a slice of a training step
SSIM_REACH_PX = 8  # more than the 3 px that the SSIM of a pixel looks to each side
WINDOW_MARGIN_PX = 8  # of the maps that are kept, around the cord


@dataclass(frozen=True)
class AdaptConfig:
    """The paper's settings (3.4, 4.3), except where said."""

    epochs: int = 200
    au_from: int | None = 150  # epochs before the AU stage; 0: no EU stage; None: no AU stage
    tau: float = 1.0  # τ
    eu_weight: str = "text"  # reading of w_ip, see `guidance.eu_scores`
    refresh: int = 10  # Q, epochs
    k: int = 10
    mask_ratio: float = 0.75
    au_percentile: float = 90  # not in the paper, as the next but one
    au_components: int = 3
    au_smallest_px: int = 2
    batch: int = 32  # the paper's is 8; larger steps keep all cores of a CPU busy
    slices_per_epoch: int = 0  # 0: as many as there are
    # "paper": 3e-3, a tenth of it after every quarter of the epochs. It has fallen to 3e-6 when the AU stage starts, so
    # that this stage can hardly change anything. "per-stage": each stage has a starting rate of its own that falls to 0
    # along half a cosine. Both with a warm-up, which the paper does not have: Adam starts without any memory.
    schedule: str = "per-stage"
    eu_rate: float = 3e-4
    au_rate: float = 1e-4
    paper_rate: float = 3e-3
    decay: float = 0.1
    warmup_steps: int = 50  # of each stage, or of the whole schedule of the paper
    clip_norm: float = 1.0  # not in the paper
    betas: tuple[float, float] = (0.9, 0.95)
    edge_weight: float = 0.1  # λ
    watch_cases: int = 3  # people whose maps are kept and drawn
    watch_epochs: tuple[int, ...] = (0, 50, 100, 150)  # … at the refreshes nearest to these, and at the last
    seed: int = 0
    augmentation: augment.AugmentConfig = field(default_factory=augment.AugmentConfig)

    def __post_init__(self):
        if self.eu_weight not in EU_WEIGHTS:
            raise UsageError(f"The EU weight must be one of {', '.join(EU_WEIGHTS)}, not {self.eu_weight!r}.")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"The schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}.")
        if not self.tau > 0:
            raise UsageError("The temperature τ must be greater than 0.")
        if self.epochs < 1 or self.refresh < 1 or self.batch < 1:
            raise UsageError("Epochs, refresh interval and batch must be at least 1.")
        if self.au_from is not None and not 0 <= self.au_from < self.epochs:
            raise UsageError(
                f"The AU stage cannot start after {self.au_from} of {self.epochs} epochs: give a number below that, or "
                "none for no AU stage."
            )
        MonteCarloConfig(self.k, self.mask_ratio)  # says what is wrong with these

    def stage(self, epoch: int) -> "Stage":
        """The stage of an epoch, counted from 0."""
        start = self.epochs if self.au_from is None else self.au_from
        return Stage("EU", 0, start) if epoch < start else Stage("AU", start, self.epochs)

    def refreshes(self) -> list[int]:
        """After how many epochs the maps are made: every Q, at the start of each stage, and at the end."""
        starts = {0, self.epochs, *({self.au_from} - {None})}
        return sorted(starts | set(range(0, self.epochs, self.refresh)))

    def watched(self) -> set[int]:
        """After how many epochs the maps of the watched cases are kept."""
        at = self.refreshes()
        wanted = [epoch for epoch in self.watch_epochs if epoch < self.epochs]
        return {min(at, key=lambda r: (abs(r - epoch), r)) for epoch in wanted} | {self.epochs}


@dataclass(frozen=True)
class Stage:
    """Epochs start … stop − 1 of an adaptation, led by the uncertainty `name`: "EU" or "AU"."""

    name: str
    start: int
    stop: int

    @property
    def title(self) -> str:
        """For the progress."""
        return f"Adapting, {self.name} stage"


def learning_rate(config: AdaptConfig, epoch: int, step: int, steps: int) -> float:
    """Of step `step` of the `steps` of an epoch, all counted from 0; see `AdaptConfig.schedule`."""
    if config.schedule == "paper":
        rate = step_decay(config.paper_rate, config.decay, epoch, config.epochs)
        return rate * warm_up(epoch * steps + step, config.warmup_steps)
    stage = config.stage(epoch)
    at, total = (epoch - stage.start) * steps + step, (stage.stop - stage.start) * steps
    rate = config.eu_rate if stage.name == "EU" else config.au_rate
    return rate * warm_up(at, config.warmup_steps) * 0.5 * (1 + math.cos(math.pi * at / total))


def adapt(
    network: EdgeMAE,
    slices: SliceSet,
    folder: Path,
    config: AdaptConfig | None = None,
    *,
    validation: SliceSet | None = None,
    team: Team | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[EdgeMAE, list[dict]]:
    """Adapt a network to slices, or go on where `folder` says it stopped. The weights after the last epoch are taken.

    :param network: the source; it stays as it is.
    :param slices: the hospital's own, lesions and all.
    :param folder: gets the state, `curves.csv` (columns `COLUMNS`; a line an epoch, and line 0 for the source),
        `curves.png`, and the maps of some cases at some epochs (paper, Fig. 5 and 8): `maps.png`, and
        `maps.safetensors` with image and cord (C, h, w), aleatoric and epistemic (E, C, h, w), epochs (E,), slice (C,)
        and the window's first and last row and column in the standard slice.
    :param validation: slices that are only watched.
    :param team: the processes that share the work; its device counts.
    :returns: the network in evaluation mode on the CPU, and the curves. Reconstruction quality ("adapted_…", on the
        adapted slices themselves; "held_out_…") is given at refreshes, by the first process of a team; "excluded" is
        the share of cord patches that the AU stage leaves alone.
    :raises ModelError: the folder holds the state of another adaptation.
    :raises Cancelled: by `progress`; what was done up to the last whole epoch is kept.
    """
    config, team = config or AdaptConfig(), team or Team(device=device)
    if config.batch < team.size:
        raise UsageError(f"A batch of {config.batch} slices cannot be shared by {team.size} processes.")
    run = _Run(network, slices, folder, config, validation, team, progress)
    first = run.resume()
    if first > 0:
        say(f"Resuming after epoch {first - 1} of {config.epochs}.")
    saved = max(first - 1, 0)
    try:
        for done in range(first, config.epochs + 1):
            run.advance(done)
            saved = done
    except Cancelled:
        if saved == 0:
            raise Cancelled(
                "Cancelled before the first epoch was over: nothing was learnt that could be kept."
            ) from None
        raise Cancelled(
            f"Cancelled. The adaptation is kept up to epoch {saved} of {config.epochs}; the same command goes on from "
            "there."
        ) from None
    return run.network.cpu().eval(), run.curves


class _Run:
    """An adaptation under way: all that an epoch needs, on the device."""

    def __init__(self, network, slices, folder, config, validation, team, progress):
        self.config, self.team, self.folder = config, team, Path(folder)
        self.slices, self.validation = slices, validation
        self.device = device = team.device
        self.progress = team.watched(progress)
        self.network = copy.deepcopy(network).to(device)
        self.architecture = self.network.architecture
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.eu_rate, betas=config.betas)
        self.recipe = json.loads(json.dumps({
            "architecture": asdict(self.architecture),
            "config": asdict(config),
            "source": _checksum(network),
            "data": fingerprint(slices, validation, cords=True),
        }))  # fmt: skip
        self.images = torch.from_numpy(slices.images).to(device)
        self.cords = torch.from_numpy(slices.cords).to(device)
        self.weights = sampling_weights(slices, 1.0)
        self.steps = -(-(config.slices_per_epoch or len(slices)) // config.batch)
        self.refreshes, self.watched_at = config.refreshes(), config.watched()
        self.watched = _watched_slices(slices, config.watch_cases)
        self.watch_maps: dict[str, torch.Tensor] = {}
        self.curves: list[dict] = []
        self.map: torch.Tensor | None = None  # EU or AU of the cord's pixels, as `_maps` gives them
        self.guide: torch.Tensor | None = None  # on the device (N, H, W): EU, or the pixels that are left alone (bool)

    def resume(self) -> int:
        """The number of epochs that the next call of `advance` will have done."""
        first = 0
        if stored := resume(self.folder, self.recipe, self.network, self.optimiser):
            tensors, record = stored
            self.curves, first = record["curves"], record["epoch"] + 1
            self.watch_maps = with_prefix(tensors, "watch.")
            if (values := tensors.get("map")) is not None:
                self._follow(values, first - 1)
        # Only now: the wrapper takes the weights of the first process for all.
        self.called = self.team.wrap(self.network)
        return first

    def advance(self, done: int) -> None:
        """Train the epoch after which `done` are done (none at 0), refresh the maps if it is time, and save."""
        line = {"epoch": done}
        if done:
            line |= self._train(done - 1)
            self._report(self.config.stage(done - 1), done, 0, 0)
        if done in self.refreshes:
            line |= self._refresh(done)
        self.curves.append(line)
        if not self.team.first:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_table(self.folder / "curves.csv", COLUMNS, self.curves)
        if done in self.refreshes:
            _draw_curves(self.folder / "curves.png", self.curves)
        if done in self.watched_at and self.watched:
            self._write_maps()
        if done == 0:
            return  # nothing has been learnt that could be lost
        tensors = network_tensors(self.network, self.optimiser)
        tensors |= {f"watch.{name}": values for name, values in self.watch_maps.items()}
        if done < self.config.epochs:
            tensors["map"] = self.map
        save_state(self.folder, tensors, {"epoch": done, "curves": self.curves, "recipe": self.recipe})

    def _train(self, epoch: int) -> dict:
        config, team, stage = self.config, self.team, self.config.stage(epoch)
        rng = np.random.default_rng([config.seed, epoch])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        drawn = rng.choice(len(self.slices), size=(self.steps, config.batch), p=self.weights)
        chosen = torch.from_numpy(drawn[:, team.part(config.batch)]).to(self.device)
        sums = torch.zeros(3, device=self.device)
        self.network.train()
        for step in range(self.steps):
            self._report(stage, epoch, step / self.steps)
            rate = learning_rate(config, epoch, step, self.steps)
            set_rate(self.optimiser, rate)
            images, cords, masks = self._batch(chosen[step], stage, generator)
            rebuilt = rebuild(self.called, self.architecture, images, cords, masks)
            # Parts of a batch hold different numbers of masked pixels: the mean is over all, not a mean of means.
            pixels = team.total(rebuilt[-1].sum())
            losses = reconstruction_loss(*rebuilt, config.edge_weight, pixels)
            descend(self.network, self.optimiser, losses[0] * team.size, config.clip_norm)
            sums += torch.stack(losses).detach()
        loss, mse, edge = (team.total(sums) / self.steps).tolist()
        return {"stage": stage.name, "rate": rate, "loss": loss, "mse": mse, "edge": edge}

    def _batch(self, chosen, stage, generator) -> tuple[torch.Tensor, torch.Tensor, Masks]:
        """This process's part of a batch: augmented images and cords, and what is masked in them."""
        config, patch = self.config, self.architecture.patch
        # Drawn for the whole batch by every process, so that it does not matter how many there are.
        drawn = augment.draw(config.augmentation, (config.batch, *self.images.shape[1:]), generator)
        uniform = torch.rand((config.batch, self.architecture.grid**2), generator=generator, device=self.device)
        mine = self.team.part(config.batch)
        drawn, uniform = augment.part(drawn, mine), uniform[mine]
        images, cords = augment.apply(self.images[chosen].float(), self.cords[chosen], drawn)
        guide = augment.move(self.guide[chosen, None].float(), drawn)[:, 0]
        roi = roi_patches(cords, patch)
        scores, left_alone = uniform, None
        if stage.name == "EU":
            scores = eu_scores(patch_sums(guide, cords, patch), roi, uniform, config.tau, config.eu_weight)
        else:
            left_alone = touched_patches(guide, patch)
        around = ring(roi, self.architecture.context)
        return images, cords, masks_from_scores(roi, scores, config.mask_ratio, around, left_alone)

    def _refresh(self, done: int) -> dict:
        """Make the maps, follow that of the coming stage, and say how well the cords are rebuilt."""
        stage = self.config.stage(min(done, self.config.epochs - 1))
        maps = self._maps(lambda share: self._report(stage, done, 0, share))
        line = {}
        if done < self.config.epochs:
            self._follow(maps["epistemic" if stage.name == "EU" else "aleatoric"], done)
            if stage.name == "AU":
                roi = roi_patches(self.cords, self.architecture.patch)
                left_alone = touched_patches(self.guide.float(), self.architecture.patch)
                line["excluded"] = float((roi & left_alone).sum() / roi.sum())
        if not self.team.first:
            return line
        line |= {f"adapted_{name}": value for name, value in self._quality(maps).items()}
        if self.validation is not None:
            found = validate(self.network, self.validation, self.device)
            self.network.to(self.device)
            line |= {f"held_out_{name}": value for name, value in found.items()}
        if done in self.watched_at and self.watched:
            rows, columns = self._window()
            for name in ("aleatoric", "epistemic"):
                kept = self._planes(maps[name])[self.watched][:, rows, columns]
                self.watch_maps[f"{name}.{done}"] = torch.from_numpy(kept.copy())
        return line

    def _maps(self, tick) -> dict[str, torch.Tensor]:
        """Monte Carlo of all slices: "mean", "aleatoric", "epistemic" of the cord's pixels, as they follow each other.

        The masks are the same at every refresh: what changes is the network. They belong to the slices' numbers, so
        that a team makes the same maps as one process.
        """
        config, team, data = self.config, self.team, self.slices
        after = np.cumsum([0, *data.cords.sum(axis=(1, 2))])
        values = torch.zeros(3, int(after[-1]))
        starts = range(0, len(data), SLICES_AT_ONCE)
        mine = starts[team.rank :: team.size]
        for count, start in enumerate(mine):
            part = slice(start, min(start + SLICES_AT_ONCE, len(data)))
            cords = data.cords[part]
            rebuilt = monte_carlo(
                self.network,
                data.images[part].astype(np.float32),
                cords,
                MonteCarloConfig(config.k, config.mask_ratio),
                config.seed + start,
                device=self.device,
                progress=lambda _, done, total, count=count: tick((count + done / total) / len(mine)),
            )
            at = slice(after[part.start], after[part.stop])
            for row, name in enumerate(("mean", "aleatoric", "epistemic")):
                values[row, at] = torch.from_numpy(getattr(rebuilt, name)[cords])
        self.network.to(self.device)  # where memory ran out, the Monte Carlo has taken it to the CPU
        values = team.total(values.to(self.device)).cpu()
        return dict(zip(("mean", "aleatoric", "epistemic"), values, strict=True))

    def _follow(self, values: torch.Tensor, done: int) -> None:
        """Take a map of the cord's pixels for the guide of the epoch that comes next."""
        self.map = values.contiguous()
        planes, config = self._planes(values), self.config
        if config.stage(done).name == "AU":
            planes = np.stack([
                anomalous(error, cord, config.au_percentile, config.au_smallest_px, config.au_components)
                for error, cord in zip(planes, self.slices.cords, strict=True)
            ])  # fmt: skip
        self.guide = torch.from_numpy(planes).to(self.device)

    def _planes(self, values: torch.Tensor) -> np.ndarray:
        """(N, H, W) float32 from the cord's pixels."""
        planes = np.zeros(self.slices.cords.shape, np.float32)
        planes[self.slices.cords] = values.numpy()
        return planes

    def _quality(self, maps) -> dict[str, float]:
        """On the adapted slices; only what lies near a cord is looked at, which changes no figure and takes a fifth."""
        rows, columns = _box(self.slices.cords, SSIM_REACH_PX)
        mean, error, variance = (
            self._planes(maps[name])[:, rows, columns] for name in ("mean", "aleatoric", "epistemic")
        )
        near = Reconstruction(mean, error, variance, 0, str(self.device))
        images = self.slices.images[:, rows, columns].astype(np.float32)
        return reconstruction_quality(images, self.slices.cords[:, rows, columns], near)

    def _report(self, stage: Stage, epoch: int, part: float, refreshed: float = 1) -> None:
        """Progress within a stage: `epoch` whole epochs and a part of the next are done, and a share of the refresh
        before it, if there is one. The unit is the work of training with one slice."""
        of_stage = [r for r in self.refreshes if self.config.stage(min(r, self.config.epochs - 1)) == stage]
        per_epoch, per_refresh = self.steps * self.config.batch, REFRESH_COST * len(self.slices)
        total = (stage.stop - stage.start) * per_epoch + len(of_stage) * per_refresh
        refreshes = sum(r < epoch for r in of_stage) + (refreshed if epoch in of_stage else 0)
        done = (epoch - stage.start + part) * per_epoch + refreshes * per_refresh
        self.progress(stage.title, int(done), total)

    def _window(self) -> tuple[slice, slice]:
        return _box(self.slices.cords[self.watched], WINDOW_MARGIN_PX)

    def _write_maps(self) -> None:
        rows, columns = self._window()
        epochs = sorted({int(name.rpartition(".")[2]) for name in self.watch_maps})
        images = self.slices.images[self.watched][:, rows, columns].astype(np.float32)
        cords = self.slices.cords[self.watched][:, rows, columns]
        maps = {
            name: torch.stack([self.watch_maps[f"{name}.{epoch}"] for epoch in epochs])
            for name in ("aleatoric", "epistemic")
        }
        tensors = {
            "image": torch.from_numpy(images),
            "cord": torch.from_numpy(cords.astype(np.uint8)),
            **maps,
            "epochs": torch.tensor(epochs),
            "slice": torch.tensor(self.watched),
            "window": torch.tensor([rows.start, rows.stop - 1, columns.start, columns.stop - 1]),
        }
        temporary = self.folder / "maps.tmp"
        save_file({name: values.contiguous() for name, values in tensors.items()}, temporary)
        os.replace(temporary, self.folder / "maps.safetensors")
        adaptation_picture(
            self.folder / "maps.png", images, cords, epochs, maps["aleatoric"].numpy(), maps["epistemic"].numpy()
        )


def _watched_slices(data: SliceSet, count: int) -> list[int]:
    """The slice with the most cord of each of `count` people, evenly spread over all."""
    people = np.unique(data.people)
    at = np.unique(np.linspace(0, len(people) - 1, min(count, len(people))).astype(int))
    area = data.cords.sum(axis=(1, 2))
    return [int(np.where(data.people == person, area, -1).argmax()) for person in people[at]]


def _box(cords, margin) -> tuple[slice, slice]:
    """Rows and columns of all cords (N, H, W) with a margin around them."""
    bounds = []
    for axis in (1, 2):
        at = np.flatnonzero(cords.any(axis=(0, 3 - axis)))
        bounds.append(slice(max(int(at[0]) - margin, 0), min(int(at[-1]) + 1 + margin, cords.shape[axis])))
    return tuple(bounds)


def _checksum(network) -> str:
    digest = sha256()
    for values in network.state_dict().values():
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _draw_curves(path: Path, curves: list[dict]) -> None:
    def line(name):
        found = [c for c in curves if name in c]
        return [c["epoch"] for c in found], [c[name] for c in found]

    def both(name):
        lines = {"adapted slices": line(f"adapted_{name}"), "others": line(f"held_out_{name}")}
        return {label: values for label, values in lines.items() if values[0]}

    panels = [
        {"title": "Loss on masked patches (logarithmic)", "log": True, "lines": {"loss": line("loss")}},
        {"title": "Mean squared error in the cord (logarithmic)", "log": True, "lines": both("mse")},
        {"title": "PSNR [dB]", "lines": both("psnr")},
        {"title": "SSIM", "lines": both("ssim")},
        {"title": "Variance (EU × 1000)", "lines": both("variance")},
    ]
    line_chart(path, panels, x_label="epoch")
