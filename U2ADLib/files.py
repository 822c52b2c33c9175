"""Small helpers for files that must never be seen half-written."""

import hashlib
import json
import os
from pathlib import Path


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
