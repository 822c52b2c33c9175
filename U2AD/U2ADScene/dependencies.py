"""The Python packages that an analysis needs and Slicer lacks: what is missing, and its installation.

Nothing is installed without being asked for, and pip must leave alone what Slicer brings along itself. torch comes by
the PyTorch extension, which picks the build for the computer's graphics card.
"""

import importlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import slicer
import slicer.util
from slicer.i18n import tr as _

from U2ADLib.errors import InstallationError

KEPT = ("numpy", "SimpleITK", "vtk")  # Slicer's own builds: pip must not replace them


@dataclass(frozen=True)
class Requirement:
    """A package by its distribution's name and lowest version, with what a person wants to know before installing."""

    name: str
    minimum: str
    size: str  # of the download
    why: str

    @property
    def range(self) -> str:
        """As pip wants it: ">=2.2"."""
        return f">={self.minimum}"

    def __str__(self) -> str:
        return self.name + self.range


def requirements() -> tuple[Requirement, ...]:
    """All that an analysis needs beyond Python's own library."""
    with_slicer = _("part of Slicer")
    return (
        Requirement("torch", "2.2", _("about 200 MB, for NVIDIA cards about 3 GB"), _("runs the networks")),
        Requirement(
            "scikit-image", "0.22", _("about 15 MB"), _("compares images, and brings along what draws the pictures")
        ),
        Requirement("safetensors", "0.4", _("below 1 MB"), _("reads the weights of the networks")),
        Requirement("scipy", "1.9", _("about 40 MB"), _("resamples images and finds connected regions")),
        Requirement("SimpleITK", "2.3", with_slicer, _("reads images")),
        Requirement("numpy", "1.26", with_slicer, _("calculates")),
    )


def missing() -> tuple[Requirement, ...]:
    """What is not installed, or too old. Takes milliseconds: nothing is imported."""
    return tuple(requirement for requirement in requirements() if not _satisfied(requirement))


def described(wanted: Sequence[Requirement]) -> str:
    """One line for each: name, range, size and why."""
    return "\n".join(f"{requirement} ({requirement.size}): {requirement.why}" for requirement in wanted)


def install(wanted: Sequence[Requirement], confirm: Callable[[str], bool]) -> bool:
    """Install packages after asking once; whether they are installed now. Needs the network and takes minutes.

    :param confirm: asked with a text for the user before anything is done; False leaves everything as it is.
    :raises InstallationError: it cannot be done, failed, or Slicer runs its tests. The message says what to do.
    """
    if not wanted:
        return True
    _refuse_what_cannot_be_installed(wanted)
    question = _("These Python packages will be downloaded and installed into Slicer:")
    if not confirm(f"{question}\n\n{described(wanted)}"):
        return False
    torch = [requirement for requirement in wanted if requirement.name == "torch"]
    others = [str(requirement) for requirement in wanted if requirement.name != "torch"]
    with _kept_versions():
        if torch and not _done(lambda: _install_torch(torch[0]), torch):
            return False
        if others:
            _done(lambda: _install_by_pip(others), [r for r in wanted if r.name != "torch"])
    importlib.invalidate_caches()
    if still := [requirement for requirement in wanted if not _satisfied(requirement)]:
        raise InstallationError(
            _("{packages} cannot be found after the installation: restart Slicer and try again.").format(
                packages=_listed(still)
            )
        )
    return True


def install_pytorch_extension(wanted: Sequence[Requirement], confirm: Callable[[str], bool]) -> bool:
    """Offer Slicer's extension PyTorch where torch is wanted and it is absent; whether Slicer restarts with it now."""
    if slicer.app.testingEnabled() or not any(requirement.name == "torch" for requirement in wanted):
        return False
    try:
        _pytorch_logic(wanted)
    except InstallationError:
        question = _("The extension PyTorch is needed. Install it now and restart Slicer? Save your scene before.")
        model = slicer.app.extensionsManagerModel()
        return confirm(question) and bool(model.installExtensionFromServer("PyTorch", True))
    return False


def offline_hint(wanted: Sequence[Requirement]) -> str:
    """How to install packages on a computer without network."""
    return _(
        "Without network: download the packages on another computer with the same system and Python {python} "
        "(pip download), copy them to a folder, and run:\n"
        "PythonSlicer -m pip install --no-index --find-links FOLDER {packages}"
    ).format(
        python=".".join(map(str, sys.version_info[:2])),
        packages=" ".join(f'"{requirement}"' for requirement in wanted),
    )


# --------------------------------------------------------------------------------------------------------------


def _satisfied(requirement):
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return False
    return _numbers(found) >= _numbers(requirement.minimum)


def _numbers(text):
    """The first two numbers of a version: "2.11.0+cu128" → (2, 11)."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _refuse_what_cannot_be_installed(wanted):
    if slicer.app.testingEnabled():
        raise InstallationError(
            _("Nothing is installed while Slicer runs its tests. Missing: {packages}.").format(packages=_listed(wanted))
        )
    if own := [requirement for requirement in wanted if requirement.name in KEPT]:
        raise InstallationError(
            _("{packages} are part of Slicer and must not be replaced: install a newer Slicer.").format(
                packages=_listed(own)
            )
        )
    if any(requirement.name == "torch" for requirement in wanted):
        _pytorch_logic(wanted)


def _pytorch_logic(wanted):
    """What the extension PyTorch installs torch with."""
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError:
        raise InstallationError(
            _("The extension PyTorch is needed: install it in the Extensions Manager and restart Slicer.")
            + "\n\n"
            + offline_hint(wanted)
        ) from None
    return PyTorchUtilsLogic()


def _install_torch(requirement):
    """Whether torch was installed; the extension returns nothing where it was not."""
    logic = _pytorch_logic([requirement])
    return logic.installTorch(askConfirmation=False, torchVersionRequirement=requirement.range) is not None


def _install_by_pip(packages):
    try:
        from slicer.packaging import pip_ensure
    except ImportError:  # Slicer before 5.12
        slicer.util.pip_install(packages)
    else:
        pip_ensure(packages, prompt_install=False, requester="U2AD")


def _done(step, wanted):
    """The result of a step of the installation. Whatever goes wrong in it becomes a message for the user."""
    try:
        return step()
    except InstallationError:
        raise
    except Exception as error:  # pip, the network and the extension fail in many ways
        raise InstallationError(
            _("Installing {packages} failed: {error}").format(packages=_listed(wanted), error=error)
            + "\n\n"
            + offline_hint(wanted)
        ) from error


@contextmanager
def _kept_versions() -> Iterator[None]:
    """pip, whoever starts it, leaves Slicer's own packages at their versions."""
    lines = []
    for name in KEPT:
        try:
            lines.append(f"{name}=={version(name)}\n")
        except PackageNotFoundError:
            continue
    before = os.environ.get("PIP_CONSTRAINT")
    with tempfile.TemporaryDirectory(prefix="U2AD-") as folder:
        path = Path(folder) / "kept.txt"
        path.write_text("".join(lines), encoding="utf-8")
        # An address, because pip takes a space for the end of a path.
        os.environ["PIP_CONSTRAINT"] = " ".join(filter(None, (before, path.as_uri())))
        try:
            yield
        finally:
            if before is None:
                del os.environ["PIP_CONSTRAINT"]
            else:
                os.environ["PIP_CONSTRAINT"] = before


def _listed(wanted):
    return ", ".join(str(requirement) for requirement in wanted)
