"""Speed, as ratios measured in one run: `make bench`.

Times depend on the machine and on what else it does; ratios of things measured in turns do not. Prints one line each.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from U2ADLib.config import Architecture, MonteCarloConfig
from U2ADLib.mae import EdgeMAE
from U2ADLib.masking import masked_count
from U2ADLib.montecarlo import monte_carlo
from U2ADLib.package import load_region_model
from U2ADLib.roi.axial import second_look
from U2ADLib.roi.locate import region_maps
from U2ADLib.training.adapt import REFRESH_COST, AdaptConfig, adapt
from U2ADLib.training.data import SliceSet

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "Resources" / "Sample"
SLICES, ROUNDS = 8, 5


def matrix_products(architecture: Architecture, patches: int, passes: int, slices: int):
    """The matrix products of one Monte Carlo, as (rows, inner, columns): the floor for its time."""
    visible = patches - masked_count(patches, 0.75)
    products = []
    sides = [
        (architecture.depth, architecture.width, visible + 1),
        (architecture.decoder_depth, architecture.decoder_width, patches + 1),
    ]
    for depth, width, tokens in sides:
        rows = tokens * passes * slices
        products += depth * [(rows, width, 3 * width), (rows, width, width), (rows, width, 4 * width)]
        products += depth * [(rows, 4 * width, width)]
    return products


def timed(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def monte_carlo_ratios() -> None:
    cords = np.zeros((SLICES, 256, 256), bool)
    cords[:, 28:228, 122:134] = True  # 52 patches
    images = np.random.default_rng(0).random(cords.shape).astype(np.float32)
    network = EdgeMAE().initialise(torch.Generator().manual_seed(0)).eval()
    patches = int(torch.nn.functional.max_pool2d(torch.from_numpy(cords[:1]).float(), 8).sum())
    passes = monte_carlo(network, images[:1], cords[:1]).passes
    operands = [
        (torch.rand(rows, inner), torch.rand(inner, columns))
        for rows, inner, columns in matrix_products(network.architecture, patches, passes, SLICES)
    ]
    outputs = {(len(a), b.shape[1]): torch.empty(len(a), b.shape[1]) for a, b in operands}

    def floor():
        for a, b in operands:
            torch.mm(a, b, out=outputs[len(a), b.shape[1]])

    def fast():
        monte_carlo(network, images, cords)

    def slow():
        monte_carlo(network, images[:2], cords[:2], MonteCarloConfig(scheme="random"), rows_per_batch=1)

    floor(), fast(), slow()
    rounds = [(timed(fast) / SLICES, timed(slow) / 2, timed(floor) / SLICES) for _ in range(ROUNDS)]
    per_slice = [median(column) * 1000 for column in zip(*rounds, strict=True)]
    print(f"Monte Carlo, K = 10, 24 blocks, {patches} patches: {per_slice[0]:.0f} ms per slice, {passes} passes")
    print(
        f"  one pass at a time, random masks: {per_slice[1]:.0f} ms "
        f"= {median(s / f for f, s, _ in rounds):.1f} times (goal: at least 6)"
    )
    print(
        f"  floor of fp32 matrix products:    {per_slice[2]:.1f} ms; "
        f"the Monte Carlo takes {median(f / b for f, _, b in rounds):.1f} times that (goal: at most 4)"
    )


def region_network() -> None:
    """15 slices of a clinical scan and 52 of a 3D one, as they come to the two networks that find the cord."""
    model = load_region_model()
    for count, spacing, shape in ((15, 3.3, (224, 224)), (52, 1.0, (216, 384))):
        images = np.random.default_rng(0).random((count, *shape)).astype(np.float32)
        cord = np.zeros(images.shape, bool)
        cord[count // 2 - 1 : count // 2 + 2, 10:-10, 100:108] = True
        region_maps(model.network, images[:1], spacing)
        first = timed(lambda images=images, spacing=spacing: region_maps(model.network, images, spacing))
        second = timed(lambda images=images, spacing=spacing, c=cord: second_look(model.axial, images, spacing, c))
        print(
            f"Finding the cord in {count} slices of {shape[0]} × {shape[1]} mm: {first:.1f} s, "
            f"and its outline in axial planes {second:.1f} s (goals for both: 1 and 4)"
        )


def adaptation() -> None:
    """From one epoch of 64 slices, and the refresh before it, to 200 epochs of 125 patients."""
    cords = np.zeros((64, 256, 256), bool)
    cords[:, 48:208, 122:134] = True  # 40 patches, as in a clinical scan
    images = np.random.default_rng(0).random(cords.shape).astype(np.float16)
    slices = SliceSet(images, cords, np.arange(len(images)).astype(str), np.zeros(len(images), bool))
    network = EdgeMAE().initialise(torch.Generator().manual_seed(0))
    at: dict[int, float] = {}  # when so much was done for the first time

    def progress(stage, done, total):
        at.setdefault(done, time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        one = AdaptConfig(epochs=1, au_from=None, batch=32)
        adapt(network, slices, Path(folder), one, progress=progress)
    refreshed = REFRESH_COST * len(slices)
    refresh, epoch = (
        (at[stop] - at[start]) * 375 / len(slices)
        for start, stop in ((0, refreshed), (refreshed, refreshed + len(slices)))
    )
    config = AdaptConfig()
    minutes = (config.epochs * epoch + len(config.refreshes()) * refresh) / 60
    print(
        f"Adapting to 375 slices in {config.epochs} epochs: about {minutes:.0f} min (goal: under 30), "
        f"{epoch:.1f} s an epoch, {refresh:.1f} s a refresh"
    )


def process(arguments: list[str]) -> tuple[float, float]:
    """Wall-clock seconds and peak memory in GB of one `python -m U2ADLib …`."""
    code = (
        "import resource, subprocess, sys, time; t = time.perf_counter();"
        "subprocess.run([sys.executable, '-m', 'U2ADLib', *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL);"
        "print(time.perf_counter() - t, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    seconds, memory = map(float, done.stdout.split()[-2:])
    return seconds, memory / (1 << 30 if sys.platform == "darwin" else 1 << 20)


def whole_processes() -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = str(SAMPLE / "sample_T2w.nii.gz")
        labels = ["--cord", str(SAMPLE / "sample_T2w_label-SC_seg.nii.gz")]
        labels += ["--discs", str(SAMPLE / "sample_T2w_label-discs_dlabel.nii.gz")]
        for what, given in (("with labels", labels), ("without labels", [])):
            words = ["analyse", image, *given, "--progress", "none"]
            runs = [process([*words, "--out", f"{folder}/{what}-{i}"]) for i in range(3)]
            report(what, runs)
    print(f"u2ad --help: {median(process(['--help'])[0] for _ in range(5)):.2f} s (goal: under 0.5)")


def report(what: str, runs: list[tuple[float, float]]) -> None:
    print(
        f"u2ad analyse, 15-slice sample, {what}: {median(s for s, _ in runs):.1f} s (goal: under 8), "
        f"{max(m for _, m in runs):.2f} GB (goal: under 1.5)"
    )


if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    monte_carlo_ratios()
    region_network()
    adaptation()
    whole_processes()
