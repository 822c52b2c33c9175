"""The methods U²AD is compared with, one file each behind `detector.Rival`, and U²AD itself in the same clothes.

A new one is a file and a line here. Nothing is imported before it is asked for: some need libraries of their own
(`pip install u2ad[rivals]`).
"""

from dataclasses import is_dataclass
from importlib import import_module

from ..errors import InstallationError, UsageError
from .detector import Rival, settings_of

# name on the command line and in configurations → module and class
RIVALS = {
    "vae": ("vae", "VAE"),
    "dae": ("dae", "DAE"),
    "vae-gan": ("vae_gan", "VAEGAN"),
    "f-anogan": ("f_anogan", "FAnoGAN"),
    "anoddpm": ("anoddpm", "AnoDDPM"),
    "yolov8": ("yolo", "YOLOv8"),
    "mask-rcnn": ("mask_rcnn", "MaskRCNN"),
    "detr": ("detr", "DETR"),
    "z-scoring": ("z_scoring", "ZScoring"),
    "slic": ("slic", "SLIC"),
    "dbscan": ("dbscan", "DBSCAN"),
    "all-positive": ("rules", "AllPositive"),
    "maximum-intensity": ("rules", "MaximumIntensity"),
    "global-robust-z": ("rules", "GlobalRobustZ"),
    "global-difference": ("rules", "GlobalDifference"),
    "local-robust-z": ("rules", "LocalRobustZ"),
    "mae": ("u2ad", "SinglePass"),
    "mae-mc": ("u2ad", "Baseline"),
    "mae-mc-signed": ("u2ad", "SignedResidual"),
    "eu-guided": ("u2ad", "EUGuided"),
    "u2ad": ("u2ad", "U2AD"),
    "u2ad-default": ("default_score", "DefaultScore"),
}


def make(name: str, **settings) -> Rival:
    """A rival with settings of its own.

    :raises UsageError: there is none of that name, or it has no such setting.
    :raises InstallationError: it needs a library that is not there, or that does not go with another one.
    """
    if name not in RIVALS:
        raise UsageError(f"There is no method {name!r}: choose from {', '.join(RIVALS)}.")
    module, kind = RIVALS[name]
    try:
        made = getattr(import_module(f".{module}", __name__), kind)
        # A rule is the dataclass of its own settings.
        return settings_of(made, name, settings) if is_dataclass(made) else made(**settings)
    except (ModuleNotFoundError, RuntimeError) as problem:
        missing = getattr(problem, "name", None)
        if missing is None:  # torchvision of another release than torch's: a RuntimeError, which transformers wraps
            raise InstallationError(
                f"{name} cannot be loaded: {problem.__cause__ or problem}. Are its libraries of releases that go "
                "together, as those of torch and torchvision must?"
            ) from problem
        if missing.startswith("U2ADLib"):
            raise
        extra = "detectors" if missing == "torchvision" else "rivals"
        raise InstallationError(f"{name} needs {missing}: pip install 'u2ad[{extra}]'.") from problem
