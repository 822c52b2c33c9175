"""The region without help: cord and discs found by a model in a volume about which nothing is known.

Slice by slice a network says where cord and discs may be (`network.py`); what the slices agree on becomes one tube
(`tube.py`), whose outline is looked at a second time in axial planes (`axial.py`), and one chain of named discs
(`chain.py`); what is not sure is said in words.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, label

from ..errors import InputError
from ..package import RegionModel, load_region_model
from ..progress import Progress, no_progress
from ..sagittal import whole_field
from ..volume import Volume
from .centreline import Centreline
from .chain import fit_chain
from .labels import DISC_NAMES, Discs
from .tube import clean_tube, filled

FOUND = "found"  # the convention of discs that no label gave
SLICES_PER_BATCH = 4
LEVEL_SIGMA = 0.5  # of the level a slice sees at a disc, in levels
FEWEST_BEYOND = 2  # discs of the chest, and none of the neck, say that it is not the neck
# Of the network's probability. Learning by Dice makes borders generous; of 0.5 to 0.8 this gave the best Dice on two
# people and twelve phantoms, none of whom the model is judged by.
CORD_FROM = 0.65
ACROSS_MM = 16.0  # slices that reach so far to the sides show the cord's outline in axial planes, too …
AXIAL_SHARE = 0.7  # … which counts so much, the sagittal slices' the rest: best on phantoms that were only watched
LEAST_AGREEMENT = 0.5  # Dice of both in a row, or the sagittal slices' outline is kept there; …
MOST_DIFFERING = 0.1  # … in more than this share of the rows it is said
MIDDLE_SHARE = 0.6  # slices with so much of the largest area of cord are near enough to the middle to show discs


@dataclass(frozen=True)
class Located:
    """Cord and discs of a volume, and how sure they are.

    cord: (I, J, K) bool on the volume's grid. confidence: 0–1 by "cord" and the names of discs. doubts: sentences for
    the user; none where all is well; disc_doubts: those of them that are about the discs. model: name and checksum.
    """

    cord: np.ndarray
    discs: Discs
    confidence: dict[str, float]
    doubts: tuple[str, ...]
    disc_doubts: tuple[str, ...]
    model: dict[str, str]


def locate(
    volume: Volume,
    *,
    cord: np.ndarray | None = None,
    model: RegionModel | str = "default",
    device: str = "auto",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> Located:
    """Find cord and discs.

    :param volume: sagittal T2-weighted MR of the neck, any orientation.
    :param cord: the user's mask (I, J, K), where there is one; then only the discs are looked for.
    :raises InputError: it is not a sagittal image, or there is no cord in it.
    :raises ModelError: the model cannot be used.
    """
    if not isinstance(model, RegionModel):
        model = load_region_model(model)
    stack, rows, columns = whole_field(volume)
    field = np.s_[:, rows, columns]
    spacing = stack.grid.slice_spacing_mm
    cords, heat = region_maps(model.network, stack.images[field], spacing, device, progress, say)
    doubts, confidence = [], {}
    if cord is None:
        cords = _recentred(cords)
        try:
            tube = clean_tube(cords, spacing)
        except InputError as error:
            raise InputError(f"{volume.name}: {error}") from None
        inside, doubts = tube.cord, list(tube.doubts)
        confidence["cord"] = tube.confidence
        if model.axial is not None and len(cords) * spacing >= ACROSS_MM:
            from .axial import second_look

            likely = second_look(model.axial, stack.images[field], spacing, inside, device, progress)
            cords, inside, differing = _outlined(cords, inside, likely)
            if differing > MOST_DIFFERING * np.count_nonzero(tube.cord.any(axis=(0, 2))):
                doubts.append(
                    f"In {differing} rows the axial plane shows another cord than the sagittal slices, whose outline "
                    "was kept there: look at it."
                )
        whole = np.zeros(stack.images.shape, np.float32)
        # Half-sure pixels at the border keep their share, so that the outline on a finer grid is smooth.
        whole[field] = np.where(inside, np.maximum(cords, 0.5), np.minimum(cords, 0.49) * _near(inside))
        cord = stack.grid.to_input(whole, order=1) >= 0.5
    else:
        inside = stack.grid.to_stack(np.asarray(cord, np.float32))[field] >= 0.5
        if not inside.any():
            raise InputError("The cord mask is thinner than a pixel of 1 mm or empty.")
    line = Centreline.from_cord(inside)
    chain = fit_chain(_agreed(heat, inside), line)
    if not chain.points and len(chain.beyond) >= FEWEST_BEYOND and "cord" in confidence:
        raise InputError(
            f"{volume.name} shows the chest, not the neck: the {len(chain.beyond)} discs that were recognised lie "
            "below C7/T1. A sagittal T2-weighted image of the neck is needed; if it is one, give --discs."
        )
    points = {n: _in_space(point, inside, stack, rows, columns) for n, point in chain.points.items()}
    confidence |= {DISC_NAMES[n]: chain.confidence[n] for n in chain.points}
    doubts += chain.doubts
    return Located(
        cord=cord,
        discs=Discs(points, FOUND, _notes(points)),
        confidence=confidence,
        doubts=tuple(doubts),
        disc_doubts=chain.doubts,
        model={"name": model.name, "sha256": model.sha256},
    )


def region_maps(
    network, images: np.ndarray, spacing_mm: float, device="cpu", progress=no_progress, say=lambda message: None
):
    """What the network says of slices (S, H, W), so far apart: cord (S, H, W) and discs {number: (S, H, W)}, float32
    0–1.

    The heat of a disc by name is that of any disc, where the level is that of the name.
    """
    import torch
    import torch.nn.functional as F

    from ..device import choose_device, is_out_of_memory
    from .network import DISC_NUMBERS, LEVELS, MIDDLE_LEVEL, neighbours

    target = choose_device(device)
    network = network.to(target).eval()
    height, width = images.shape[1:]
    multiple = network.architecture.multiple
    padding = (0, -width % multiple, 0, -height % multiple)
    given = F.pad(torch.from_numpy(np.ascontiguousarray(images, np.float32)), padding).to(target)
    beside = torch.from_numpy(neighbours(len(given), spacing_mm)).to(target)
    total, size, made = len(given), SLICES_PER_BATCH, []
    numbers = torch.tensor(DISC_NUMBERS, dtype=torch.float32, device=target).view(1, -1, 1, 1)
    progress("Finding the cord", 0, total)
    with torch.inference_mode():
        while len(made) < total:
            try:
                found = network(given[beside[len(made) : len(made) + size]])[:, :, :height, :width]
                level = MIDDLE_LEVEL + LEVELS * found[:, 3:]
                names = torch.exp(-((level - numbers) ** 2) / (2 * LEVEL_SIGMA**2))
                made += list(torch.cat([found[:, :1].sigmoid(), found[:, 2:3].sigmoid() * names], dim=1))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or (size == 1 and target.type == "cpu"):
                    raise
                if size > 1:
                    size = 1
                    say(f"Memory ran out on {target}: looking at one slice at a time.")
                else:
                    target = torch.device("cpu")
                    network, given, beside, numbers = network.cpu(), given.cpu(), beside.cpu(), numbers.cpu()
                    made = [one.cpu() for one in made]
                    say("Memory ran out on the GPU even for a single slice: going on with the CPU, which is slower.")
            progress("Finding the cord", len(made), total)
        maps = torch.stack(made).cpu().numpy()
    network.cpu()
    return maps[:, 0], {number: maps[:, 1 + k] for k, number in enumerate(DISC_NUMBERS)}


def _recentred(cords):
    """Probabilities stretched so that what counts as cord is above 0.5 and everything after need not know."""
    below, above = cords / (2 * CORD_FROM), 0.5 + (cords - CORD_FROM) / (2 * (1 - CORD_FROM))
    return np.where(cords < CORD_FROM, below, above).astype(np.float32)


def _near(inside):
    """(S, H, W) bool: within a pixel of the cord in its slice."""
    return binary_dilation(inside, np.ones((1, 3, 3), bool))


def _outlined(cords, tube, likely):
    """Cord after the second look: probability and mask (S, H, W), and in how many rows the tube was kept instead.

    :param cords, tube: probability and mask of the sagittal slices. :param likely: probability in the axial planes.
    """
    mixed = AXIAL_SHARE * likely + (1 - AXIAL_SHARE) * cords
    inside = (mixed >= 0.5) & binary_dilation(tube, np.ones((3, 5, 5), bool))
    both, sizes = (values.sum(axis=(0, 2)) for values in (inside & tube, inside.astype(int) + tube))
    kept = tube.any(axis=(0, 2)) & (2 * both < LEAST_AGREEMENT * sizes)
    inside[:, kept], mixed[:, kept] = tube[:, kept], cords[:, kept]
    pieces, count = label(inside, np.ones((3, 3, 3)))
    if count > 1:
        inside = pieces == 1 + np.bincount(pieces[pieces > 0])[1:].argmax()
    return mixed, filled(inside), np.count_nonzero(kept)


def _agreed(heat, inside):
    """Mean of each disc's map over the slices near the middle of the cord, (H, W)."""
    area = inside.sum(axis=(1, 2))
    middle = area >= MIDDLE_SHARE * area.max()
    return {number: maps[middle].mean(axis=0) for number, maps in heat.items()}


def _in_space(point, inside, stack, rows, columns):
    """RAS mm of a disc's tip: in the sagittal plane through the middle of the cord at its height."""
    at = np.arange(max(0, int(point[0]) - 4), min(inside.shape[1], int(point[0]) + 5))
    width = inside[:, at].sum(axis=(1, 2)) if len(at) else np.zeros(len(inside))
    if not width.any():
        width = inside.sum(axis=(1, 2))
    middle = np.average(np.arange(len(inside)), weights=width)
    return stack.grid.stack_to_ras(np.array([middle, point[0] + rows.start, point[1] + columns.start]))


def _notes(points):
    if not points:
        return ("No cervical disc was recognised: the segments cannot be named.",)
    names = ", ".join(DISC_NAMES[n] for n in sorted(points))
    return (f"Discs found by the model: {names}. Check the names on the picture; all can be shifted by a level.",)
