"""Training of the second look (`roi/axial.py`): the cord's outline in axial planes, of necks and slices of any kind.

Real volumes with masks, as they are and as a scan of thicker slices would show them, and as many simulated ones;
turned, stretched, of other contrast, with lesions. Resumable at any moment and reproducible from its seed.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter1d

from ..dataset import Case
from ..errors import U2ADError
from ..io import read_volume
from ..progress import Progress, no_progress
from ..roi.axial import PLANE, AxialArchitecture, AxialNet, axial_planes, cord_centres, normalised
from ..sagittal import whole_field
from ..simulation.phantom import phantom_config, simulate_phantom
from ..volume import Volume
from .fit import fit
from .region_data import FindCord, changed, cord_of, no_cord

PARTS = ("loss", "cross-entropy", "dice")
CHARTS = {"Held-out planes: Dice of the cord": {"Dice": "held_out_outline_dice"}}
THICKEST = 5  # slices of thin-slice scans are averaged, so many at most
BESIDE_MM = 34  # kept around the cord, in a slice: half a plane, turned and moved
FEWEST_ROWS = 20
THIN_MM = 2.0
LESION_SHARE = 0.3  # of the planes
WATCHED_EVERY = 4  # of the rows of held-out volumes


@dataclass(frozen=True)
class AxialTrainConfig:
    """Settings of the training."""

    steps: int = 3000
    volumes: int = 4  # in a batch
    planes: int = 8  # of each of them
    learning_rate: float = 2e-3  # falls to zero along half a cosine, after a linear warm-up
    warmup_steps: int = 50
    weight_decay: float = 1e-4
    real_share: float = 0.5  # of the volumes drawn
    steps_per_epoch: int = 50  # state is saved, and held-out planes are looked at, so often
    seed: int = 0


@dataclass(frozen=True)
class CordVolume:
    """The part of a scan around its cord. images: (S, H, W) float16, 0–1 at 1 mm; cord: (S, H, W) bool."""

    images: np.ndarray
    cord: np.ndarray
    slice_spacing_mm: float


@dataclass(frozen=True)
class CordVolumes:
    """N volumes, whose they are (N,), and whether simulated (N,)."""

    volumes: list[CordVolume]
    people: np.ndarray
    phantom: np.ndarray

    def __len__(self):
        return len(self.volumes)


def together(parts: Iterable[tuple[str, bool, list[CordVolume]]]) -> CordVolumes:
    """One set from (person, whether simulated, volumes)."""
    rows = [(volume, person, phantom) for person, phantom, volumes in parts for volume in volumes]
    volumes, people, phantom = zip(*rows, strict=True) if rows else ((), (), ())
    return CordVolumes(list(volumes), np.array(people, str), np.array(phantom, bool))


def cord_volumes(volume: Volume, cord: np.ndarray) -> list[CordVolume]:
    """A scan around its cord; of thin slices also the means of two and more, as thicker slices would show them. Nothing
    where there is hardly any cord.

    :param cord: (I, J, K) bool on the volume's grid.
    """
    stack, rows, columns = whole_field(volume)
    images = stack.images[:, rows, columns]
    share = stack.grid.to_stack(np.asarray(cord, np.float32))[:, rows, columns]
    spacing, made = stack.grid.slice_spacing_mm, []
    there = share > 0.5
    along, across = np.flatnonzero(there.any((0, 2))), np.flatnonzero(there.any((0, 1)))
    if len(along) < FEWEST_ROWS:
        return []
    left = max(0, across[0] - BESIDE_MM)
    part = np.s_[:, max(0, along[0] - 3) : along[-1] + 4, left : across[-1] + 1 + BESIDE_MM]
    for count in range(1, THICKEST + 1) if spacing < THIN_MM else (1,):
        means = [
            uniform_filter1d(values[part], count, axis=0, mode="nearest")[count // 2 :: count]
            for values in (images, share)
        ]
        made.append(CordVolume(means[0].astype(np.float16), means[1] > 0.5, spacing * count))
    return [one for one in made if np.count_nonzero(one.cord.any((0, 2))) >= FEWEST_ROWS]


def volumes_of_cases(cases: Iterable[Case], find: FindCord = no_cord) -> CordVolumes:
    """Those of images whose cord is known; what cannot be read is left out, `region_data.slices_of_cases` names it."""
    parts = []
    for case in cases:
        with suppress(U2ADError):
            volume = read_volume(case.image)
            if (cord := cord_of(case, volume, find)) is not None:
                parts.append((case.person, False, cord_volumes(volume, cord)))
    return together(parts)


def phantom_volumes(seeds: Iterable[int], kind: str, progress: Progress = no_progress) -> CordVolumes:
    """Of simulated necks."""
    parts, seeds = [], list(seeds)
    for done, seed in enumerate(seeds):
        progress("Phantoms", done, len(seeds))
        phantom = simulate_phantom(phantom_config(kind, seed), seed)
        parts.append((f"phantom-{seed}", True, cord_volumes(phantom.volume, phantom.cord.array > 0)))
    progress("Phantoms", len(seeds), len(seeds))
    return together(parts)


def join_volumes(sets: Iterable[CordVolumes]) -> CordVolumes:
    """All of several sets."""
    sets = list(sets)
    return CordVolumes(
        [one for part in sets for one in part.volumes],
        np.concatenate([part.people for part in sets]),
        np.concatenate([part.phantom for part in sets]),
    )


def train_axial(
    train: CordVolumes,
    validation: CordVolumes,
    folder: Path,
    architecture: AxialArchitecture | None = None,
    config: AxialTrainConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[AxialNet, list[dict]]:
    """Train an AxialNet, or go on where `folder` says it stopped. The last weights are taken.

    :param validation: volumes of other people and phantoms, only watched.
    :returns: the network, in evaluation mode on the CPU, and the curves (one dict an epoch).
    :raises ModelError: the folder holds the state of another training.
    """
    config, device = config or AxialTrainConfig(), torch.device(device)
    network = AxialNet(architecture)
    centres = [cord_centres(one.cord) for one in train.volumes]

    def losses(rng, weights):
        planes, cords = draw_planes(train, centres, rng.choice(len(train), config.volumes, p=weights), config, rng)
        return outline_loss(network, planes.to(device), cords.to(device))

    curves = fit(
        network,
        folder,
        config,
        train,
        _labels_checksum(train),
        PARTS,
        losses,
        lambda: {"held_out_outline_dice": held_out_dice(network, validation, device)} if len(validation) else {},
        CHARTS,
        device=device,
        stage="Training the second look",
        progress=progress,
        say=say,
    )
    return network, curves


def outline_loss(network: AxialNet, planes: torch.Tensor, cords: torch.Tensor) -> list[torch.Tensor]:
    """[total, cross-entropy, soft Dice] of planes (B, 3, P, P) and their cords (B, 1, P, P), 0 or 1."""
    found = network(planes)
    entropy, likely = F.binary_cross_entropy_with_logits(found, cords), found.sigmoid()
    dice = 1 - (2 * (likely * cords).sum() + 1) / (likely.sum() + cords.sum() + 1)
    return [5 * entropy + dice, entropy, dice]


def draw_planes(
    data: CordVolumes, centres: list, chosen: Iterable[int], config: AxialTrainConfig, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Planes of the chosen volumes, moved and changed at random: (B, 3, PLANE, PLANE) as the network gets them, and the
    cord in them (B, 1, PLANE, PLANE), 0 or 1.

    :param centres: of each volume, what `cord_centres` says.
    """
    planes, cords = [], []
    for k in chosen:
        one, (rows, middles), count = data.volumes[k], centres[k], config.planes
        at = rng.choice(len(rows), count)
        angle = np.deg2rad(rng.uniform(-12, 12, count))
        scale = np.exp(rng.uniform(np.log(0.85), np.log(1.2), (count, 1))) * rng.uniform(0.9, 1.1, (count, 2))
        scale[:, 0] *= rng.choice((-1, 1), count)  # right and left are as likely
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1) * scale[:, None, :]
        moved = middles[at] + rng.normal(0, 2.5, (count, 2)) / (one.slice_spacing_mm, 1)
        where = (torch.from_numpy(rows[at]), torch.from_numpy(moved).float(), torch.from_numpy(turn).float())
        image, cord = (torch.from_numpy(values.astype(np.float32)) for values in (one.images, one.cord))
        inside = axial_planes(cord, one.slice_spacing_mm, *where)[:, 1:2] > 0.5
        cords.append(inside)
        planes.append(_with_lesions(axial_planes(image, one.slice_spacing_mm, *where), inside, rng))
    made = normalised(changed(torch.cat(planes), rng).clamp(min=0)).clamp(max=1.3)
    brightness = torch.from_numpy(rng.uniform(0.85, 1.2, (len(made), 1, 1, 1))).float()
    return made * brightness, torch.cat(cords).float()


def _with_lesions(planes, inside, rng):
    """Bright spots in some cords, up to the brightness of fluid: they stay cord."""
    way = torch.arange(PLANE).float()
    for k in np.flatnonzero(rng.random(len(planes)) < LESION_SHARE):
        places = inside[k, 0].nonzero()
        if len(places):
            across, back = places[rng.integers(len(places))].float()
            far = ((way[:, None] - across) / rng.uniform(1, 3)) ** 2 + ((way - back) / rng.uniform(1, 2.5)) ** 2
            planes[k] += rng.uniform(0.1, 0.8) * planes[k].max() * torch.exp(-far / 2) * inside[k]
    return planes


@torch.inference_mode()
def held_out_dice(network: AxialNet, data: CordVolumes, device) -> float:
    """Mean Dice over volumes as they are, of their rows taken together."""
    network.eval()
    values = []
    for one in data.volumes:
        rows, middles = (values[::WATCHED_EVERY] for values in cord_centres(one.cord))
        where = (torch.from_numpy(rows), torch.from_numpy(middles).float())
        image, cord = (torch.from_numpy(values.astype(np.float32)) for values in (one.images, one.cord))
        truth = axial_planes(cord, one.slice_spacing_mm, *where)[:, 1:2] > 0.5
        planes = normalised(axial_planes(image, one.slice_spacing_mm, *where))
        found = network(planes.to(device)).cpu() > 0
        values.append(float(2 * (found & truth).sum() / (found.sum() + truth.sum()).clamp(min=1)))
    return float(np.mean(values))


def _labels_checksum(data):
    """Of the masks of real necks. Those of phantoms follow from their names."""
    masks = (one.cord.tobytes() for one, phantom in zip(data.volumes, data.phantom, strict=True) if not phantom)
    return sha256(b"".join(masks)).hexdigest()
