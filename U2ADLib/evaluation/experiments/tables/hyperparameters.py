"""How K, mask ratio and τ change the reconstruction (paper, Fig. A5)."""

from math import nan

from ..pictures import line_panels
from ..training import Comparison
from . import table4
from .context import Context
from .result import Picture, Result, Table, Value
from .scoring import Job

TITLE = "Hyper-parameters and reconstruction (Fig. A5)"
SHOWN = (("SSIM", "ssim", 4), ("PSNR [dB]", "psnr", 2), ("MSE", "mse", 5))


def jobs(comparison: Comparison) -> list[Job]:
    """Those of Table 4."""
    return table4.jobs(comparison)


def run(context: Context) -> Result:
    """A table and a picture: rows are figures, columns settings."""
    lines, panels = [], []
    found = [
        (name, value, context.mean_quality(entry))
        for name, value, entry in table4.variants(context.comparison)
        if context.is_there(entry)
    ]
    if not found:
        return Result(notes=["Fig. A5 is empty: U²AD does not take part, or failed."])
    for name, value, quality in found:
        cells = [Value(quality.get(key, nan), digits=digits) for _, key, digits in SHOWN]
        lines.append((table4.NAMES[name], f"{value:g}", *cells))
    for title, key, _ in SHOWN:
        for name in dict.fromkeys(name for name, _, _ in found):
            points = [(value, quality.get(key, nan)) for setting, value, quality in found if setting == name]
            panels.append({
                "title": f"{title} against {table4.NAMES[name]}",
                "x": table4.NAMES[name],
                "log": name == "tau",
                "lines": {"U²AD": tuple(zip(*points, strict=True))},
            })  # fmt: skip
    columns = len({name for name, _, _ in found})
    line_panels(context.picture_path("hyperparameters"), panels, columns)
    table = Table(
        "hyperparameters",
        TITLE,
        ("Setting", "Value", *(title for title, _, _ in SHOWN)),
        tuple(lines),
        (0, 0, 1, 1, -1),
        ("Whole cord, mean over the test images, intensities 0–1.", *context.doubts(), context.stated()),
    )
    return Result([table], [Picture("hyperparameters.png", TITLE, "Whole cord, mean over the test images.")])
