"""What exists in real Slicer: the facts of `slicer_api.json`, which `extract_api.py` read from Slicer's own sources."""

import json
from collections.abc import Iterator
from pathlib import Path

FACTS = json.loads((Path(__file__).parent / "slicer_api.json").read_text(encoding="utf-8"))
CLASSES: dict[str, dict] = FACTS["cxx"]
PYTHON_MODULES: dict[str, dict] = FACTS["python"]
_DECORATORS: dict[str, list[str]] = FACTS["decorators"]


def ancestry(name: str) -> Iterator[tuple[str, dict]]:
    """The class and its bases, nearest first, as far as they belong to Slicer or CTK."""
    while name in CLASSES:
        yield name, CLASSES[name]
        name = (CLASSES[name]["bases"] or [""])[0]


def qt_base(name: str) -> str:
    """Name of the first base that belongs to Qt itself (QObject where a class has none)."""
    last = name
    for _, facts in ancestry(name):
        last = (facts["bases"] or ["QObject"])[0]
    return last


def declared(signature: str) -> str:
    """Name of a function or signal: `static jump(int) -> bool` → `jump`."""
    return signature.removeprefix("static ").split("(")[0]


def arguments(signature: str) -> list[str]:
    """Argument declarations of a signal or function without template commas: `a(int x, T* y)` → [`int x`, `T* y`]."""
    inside = signature[signature.index("(") + 1 : signature.rindex(")")]
    return [part.strip() for part in inside.split(",") if part.strip()]


def decorated(name: str) -> set[str]:
    """Functions that PythonQt decorators add to this class alone."""
    return {declared(signature) for signature in _DECORATORS.get(name, [])}


def python_names(name: str) -> set[str]:
    """Every property, signal, slot and function of a Slicer or CTK class that Python sees, without Qt's own."""
    names: set[str] = set()
    for cls, facts in ancestry(name):
        names |= set(facts["properties"]) | decorated(cls)
        names |= {declared(s) for kind in ("signals", "slots", "invokable") for s in facts[kind]}
    return names
