"""Where the bundled models and the sample lie.

The same folder `Resources/` is found from the source tree (it stands beside `U2ADLib/`), from Slicer's build tree and
an installed extension (beside `U2ADLib/` there too), and from a pip installation (inside the package).
"""

from pathlib import Path

from .errors import InstallationError

_PACKAGE = Path(__file__).resolve().parent


def resource(*parts: str) -> Path:
    """Path of a bundled file or folder. :raises InstallationError: it is not there."""
    for folder in (_PACKAGE / "Resources", _PACKAGE.parent / "Resources"):
        if (folder / "Models").is_dir():
            path = folder.joinpath(*parts)
            if path.exists():
                return path
    raise InstallationError(f"The bundled file {'/'.join(parts)} is missing: install U2AD again.")
