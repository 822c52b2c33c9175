"""What rivals that rebuild a slice have in common: the window, training batches, and the way to a map (App. B.1)."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..errors import UsageError
from ..training import augment
from ..training.step import descend
from .crop import middle, put_together, windows
from .detector import Maps, Training, TrainingSlices
from .learning import LearnedRival, Networks, learn

# As in every training, but shifts of only a few pixels: a window follows the cord, unlike the grid of patches for which
# the others were added. What is turned has to stay in it.
AUGMENTATION = augment.AugmentConfig(shift_px=4)
MARGIN_PX = 16  # of image around the window, for what augmentation moves in


@dataclass(frozen=True)
class RebuildingSettings:
    """rows and columns of the window, in pixels of 1 mm: the whole slice, as in the paper, or 256×64 about the cord.

    channels: of the networks' levels; each halves rows and columns. maps_batch: slices at once when maps are made.
    """

    rows: int = 256
    columns: int = 256
    channels: tuple[int, ...] = (32, 64, 128, 256, 256)
    batch: int = 16
    learning_rate: float = 1e-3
    clip_norm: float = 1.0
    maps_batch: int = 16

    def __post_init__(self):
        unit = 2**self.halvings
        if self.rows % unit or self.columns % unit or min(self.rows, self.columns) < unit:
            raise UsageError(
                f"A window of {self.rows}×{self.columns} cannot be halved {self.halvings} times: take multiples of "
                f"{unit}, or fewer channels."
            )

    @property
    def halvings(self) -> int:
        """How often the networks halve the window."""
        return len(self.channels)

    @property
    def size(self) -> tuple[int, int]:
        """Of the window."""
        return self.rows, self.columns

    @property
    def smallest(self) -> tuple[int, int]:
        """Of the window where it is halved most."""
        return self.rows >> self.halvings, self.columns >> self.halvings


class Rebuilding(LearnedRival):
    """A method whose map is |x − reconstruction| inside the cord.

    A subclass builds its networks and defines `rebuild`; one with a single network defines its `losses`, too, one with
    several its own `train`.
    """

    settings: RebuildingSettings
    of_maps = frozenset({"maps_batch"})

    def losses(self, network: torch.nn.Module, seen: torch.Tensor, generator: torch.Generator) -> dict:
        """Losses by name, scalars; "loss" is descended. seen: windows (B, 1, rows, columns) in 0–1, augmented."""
        raise NotImplementedError

    def rebuild(self, networks: Networks, seen: torch.Tensor, cords: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        """Windows (B, 1, rows, columns) in 0–1 with cords of that shape, as 0 and 1, rebuilt.

        :param seeds: of each slice, for what is random.
        """
        raise NotImplementedError

    def train(self, networks: Networks, slices: TrainingSlices, training: Training, recipe: dict) -> None:
        settings, ((name, network),) = self.settings, networks.items()
        batches = Batches(slices, settings.size, training.device)
        optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)

        def step(chosen, generator):
            seen, _ = batches(chosen, generator)
            losses = self.losses(network, seen, generator)
            descend(network, optimiser, losses["loss"], settings.clip_norm)
            return losses

        learn(networks, {name: optimiser}, step, slices, training, batch=settings.batch, recipe=recipe)

    @torch.no_grad()
    def anomaly_map(self, images: np.ndarray, cords: np.ndarray, seed: int = 0) -> Maps:
        """See `detector.MapDetector`. seed: of slice i (seed, i). Slices without cord have an empty map."""
        networks = self.trained()
        whole, anomaly = images.astype(np.float32), np.zeros(images.shape, np.float32)
        with_cord = np.flatnonzero(cords.any(axis=(1, 2)))
        for start in range(0, len(with_cord), self.settings.maps_batch):
            chosen = with_cord[start : start + self.settings.maps_batch]
            image, cord = (torch.from_numpy(values[chosen]).to(self.device) for values in (whole, cords))
            where = windows(cord, self.settings.size)
            seeds = [int(np.random.default_rng([seed, i]).integers(2**62)) for i in chosen]
            seen, inside = where.cut(image)[:, None], where.cut(cord)[:, None].float()
            rebuilt = self.rebuild(networks, seen, inside, seeds).float()[:, 0]
            both = put_together(image, cord, rebuilt, where)
            whole[chosen], anomaly[chosen] = (values.cpu().numpy() for values in both)
        return Maps(anomaly, whole)


class Batches:
    """Augmented windows of training slices, on a device."""

    def __init__(self, slices: TrainingSlices, size: tuple[int, int], device: torch.device | str):
        self.images, self.cords = (torch.from_numpy(values).to(device) for values in (slices.images, slices.cords))
        self.size = size

    def __call__(self, chosen: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows (B, 1, rows, columns) float32 in 0–1 of the chosen slices, and their cords, as 0 and 1."""
        images, cords = self.images[chosen].float(), self.cords[chosen]
        where = windows(cords, self.size, MARGIN_PX)
        images, cords = where.cut(images), where.cut(cords)
        drawn = undistorted(augment.draw(AUGMENTATION, images.shape, generator), images.shape)
        images, cords = augment.apply(images, cords, drawn)
        return middle(images, self.size)[:, None], middle(cords, self.size)[:, None].float()


def undistorted(drawn: augment.Augmentation, shape) -> augment.Augmentation:
    """What was drawn for square images, for images of `shape` (B, H, W): turned, these would be sheared, since a grid's
    coordinates go from −1 to 1 along both sides."""
    height, width = shape[1:]
    ratio = drawn.matrix.new_tensor([[1.0, height / width, 1.0], [width / height, 1.0, 1.0]])
    return replace(drawn, matrix=drawn.matrix * ratio)


def generators(seeds: list[int]) -> list[torch.Generator]:
    """One for each slice, on the CPU: what is drawn does not depend on the batch or the device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
