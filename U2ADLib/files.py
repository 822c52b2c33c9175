"""Small helpers for files that must never be seen half-written."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError, U2ADError, UsageError


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value) -> None:
    """Write JSON beside its place and move it there. NaN is refused: it is not JSON."""
    temporary = path.with_name(path.name + ".tmp")
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def refuse_existing(folder: Path, names: Sequence[str], overwrite: bool = False) -> None:
    """Whether files may be written to a folder; to be asked before an hour is spent, too.

    :raises UsageError: a name is not that of a file. :raises InputError: one of the files is there and `overwrite` is
        not set, or `folder` is a file.
    """
    folder = Path(folder)
    for name in names:
        if Path(name).name != name or name.startswith("."):
            raise UsageError(f"{name!r} cannot be the name of a file.")
        if (folder / name).exists() and not overwrite:
            raise InputError(f"{folder.name} holds {name} already: choose another folder, or add --overwrite.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"Nothing can be written to {folder.name}: that is a file. Choose another folder.")


@contextmanager
def staged(folder: Path, names: Sequence[str], overwrite: bool = False) -> Iterator[Path]:
    """A hidden folder to write the files `names` in; they move to `folder` in the end, or nothing is left of them.

    `folder` is made where it does not exist; what else it holds stays as it is.

    :raises UsageError, InputError: as `refuse_existing`. :raises U2ADError: writing failed.
    """
    folder = Path(folder)
    refuse_existing(folder, names, overwrite)
    missing = [parent for parent in (folder, *folder.absolute().parents) if not parent.exists()]
    place = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=".u2ad-", dir=folder))
        yield place
        for name in names:
            os.stat(place / name)  # all are there before the first is moved
        for name in names:
            os.replace(place / name, folder / name)
        missing = []
    except OSError as error:
        raise U2ADError(f"Writing to {folder} failed: {error.strerror or type(error).__name__}.") from error
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
        for parent in missing:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
