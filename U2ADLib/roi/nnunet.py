"""The cord from a trained nnU-Net v2, as the paper finds it (4.3): any model folder that the user names.

nnU-Net keeps its weights as pickles, and loading a pickle runs whatever its author put into it. So nothing of it is
loaded here: nnU-Net's own program does that, in its own process, from a folder the user has chosen, after a warning.
It is not a dependency: `pip install nnunetv2`, in this or another environment whose programs are on the PATH.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np

from ..errors import InputError, InstallationError, ModelError
from ..io import read_volume, write_volume
from ..progress import Progress, no_progress
from ..volume import Volume

PROGRAM = "nnUNetv2_predict_from_modelfolder"
CHECKPOINT = "checkpoint_final.pth"
POLL_SECONDS = 0.2  # between two looks at whether the user wants to stop
DESCRIPTIONS = ("dataset.json", "plans.json")
NNUNET = "nnunet"  # in results, in the place of the convention of a cord mask that was given


def check_nnunet(folder: Path) -> tuple[int, ...]:
    """Whether a folder holds a model that can be run; its folds.

    :raises ModelError: it does not, or does not say which label is the cord. :raises InstallationError: nnU-Net is not
        installed.
    """
    folder = Path(folder)
    if not all((folder / name).is_file() for name in DESCRIPTIONS):
        raise ModelError(
            f"{folder.name} is no model folder of nnU-Net v2: expected are {' and '.join(DESCRIPTIONS)}, and fold_0 … "
            f"with {CHECKPOINT}."
        )
    _cord_label(_description(folder))
    found = (path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{CHECKPOINT}"))
    folds = tuple(sorted(int(name) for name in found if name.isdecimal()))
    if not folds:
        raise ModelError(f"{folder.name} holds no fold_0 … with {CHECKPOINT}: the model was not trained to its end.")
    if shutil.which(PROGRAM) is None:
        raise InstallationError(f"{PROGRAM} was not found: run `pip install nnunetv2`.")
    return folds


def check_nnunet_starts() -> None:
    """Whether nnU-Net can start at all, which its being there does not say. It takes seconds: torch is loaded.

    :raises InstallationError: it cannot, and its last words.
    """
    asked = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run([PROGRAM, "-h"], **asked, check=False)
    except OSError as error:
        raise InstallationError(f"{PROGRAM} cannot be started: {error.strerror}.") from None
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip().splitlines()
        why = said[-1] if said else f"exit code {done.returncode}"
        raise InstallationError(f"{PROGRAM} cannot be started: {why}. Install nnunetv2 anew.")


def nnunet_checksum(folder: Path) -> str:
    """SHA-256 over what the model says of itself and the sizes of its weights."""
    parts = [(Path(folder) / name).read_bytes() for name in DESCRIPTIONS]
    weights = sorted(Path(folder).glob(f"fold_*/{CHECKPOINT}"))
    parts += [f"{path.parent.name} {path.stat().st_size}".encode() for path in weights]
    return sha256(b"\0".join(parts)).hexdigest()


def cord_by_nnunet(
    volume: Volume,
    folder: Path,
    *,
    device: str = "auto",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> Volume:
    """The cord mask, uint8 on the volume's grid.

    :param folder: with `dataset.json`, `plans.json` and `fold_*/checkpoint_final.pth`. The cord is the label with
        "cord" in its name, or the only one.
    :param progress: may raise `Cancelled`; nnU-Net is stopped then.
    :raises ModelError: the folder cannot be used. :raises InstallationError: nnU-Net is not installed.
    :raises InputError: it fails on this image, or finds no cord.
    """
    from ..device import choose_device

    folds = check_nnunet(folder)
    folder = Path(folder).resolve()
    description = _description(folder)
    ending = description.get("file_ending", ".nii.gz")
    say(
        f"The nnU-Net model {folder.name} is run, as asked. Its weights are pickles, which can hold any program: use "
        "only models from people you trust."
    )
    with tempfile.TemporaryDirectory(prefix="u2ad-") as place:
        given, made = Path(place, "in"), Path(place, "out")
        given.mkdir()
        write_volume(given / f"volume_0000{ending}", volume)
        command = [PROGRAM, "-i", str(given), "-o", str(made), "-m", str(folder), "-f", *map(str, folds)]
        command += ["-device", choose_device(device).type, "-npp", "1", "-nps", "1", "--disable_progress_bar"]
        _run(command, volume.name, progress)
        path = made / f"volume{ending}"
        if not path.is_file():
            raise InputError(
                f"{volume.name}: nnU-Net ended without a result: the model {folder.name} may not fit this image."
            )
        labels = read_volume(path)
    if not volume.same_grid(labels):
        raise InputError(f"{volume.name}: the result of the nnU-Net model {folder.name} does not lie on the image.")
    cord = labels.array == _cord_label(description)
    if not cord.any():
        raise InputError(f"{volume.name}: the nnU-Net model {folder.name} found no spinal cord.")
    return volume.with_array(cord.astype(np.uint8))


def nnunet_notes(notes: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """The notes of results whose cord is of `cord_by_nnunet`: who found it, not how a given mask was read."""
    found = f"The cord was found by the nnU-Net model {Path(folder).resolve().name}: look at its outline."
    return (found, *(note for note in notes if not note.startswith("Cord mask: ")))


def _description(folder):
    try:
        return json.loads((Path(folder) / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"dataset.json of {Path(folder).name} cannot be read: {error}.") from None


def _cord_label(description):
    """The value of the cord in a model's results."""
    labels = description.get("labels")
    channels = description.get("channel_names", description.get("modality", {}))
    if not isinstance(labels, dict) or len(channels) != 1:
        raise ModelError("The nnU-Net model takes more than one image, or does not name its labels.")
    values = {name: value for name, value in labels.items() if value != 0 and name not in ("background", "ignore")}
    cords = [value for name, value in values.items() if "cord" in name.lower()] or list(values.values())
    if len(cords) != 1 or not isinstance(cords[0], int):
        raise ModelError(f"The nnU-Net model does not say which label is the cord; it has {', '.join(values)}.")
    return cords[0]


def _run(command, name, progress):
    """Run to the end, or stop it where `progress` raises. :param name: of the image, for messages."""
    progress("Finding the cord with nnU-Net", 0, 1)
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        except OSError as error:
            raise InstallationError(f"{PROGRAM} cannot be started: {error.strerror}.") from None
        try:
            while process.poll() is None:
                try:
                    process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    progress("Finding the cord with nnU-Net", 0, 1)
        except BaseException:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
        if process.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace").strip().splitlines()
            raise InputError(f"{name}: nnU-Net failed: {said[-1] if said else f'exit code {process.returncode}'}")
    progress("Finding the cord with nnU-Net", 1, 1)
