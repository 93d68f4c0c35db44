"""The reference of the documentation's site has every public name, and what it names is there."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs" / "reference").glob("*.md"))
NAMES = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]
PUBLIC = (
    "tidings",
    "tidings.context",
    "tidings.dashboard",
    "tidings.domain",
    "tidings.filters",
    "tidings.observability",
    "tidings.transports",
)


def named(path: str) -> Any:
    """Return a module, or what is in one."""
    try:
        return import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(import_module(module), name)


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_has_its_place(package: str) -> None:
    shown = [named(name) for name in NAMES]
    # Of a module, what is defined in it is shown.
    modules = [each.__name__ for each in shown if isinstance(each, ModuleType)]
    public = {name: getattr(import_module(package), name) for name in import_module(package).__all__}
    missing = [
        name
        for name, value in public.items()
        if not any(value is each for each in shown) and getattr(value, "__module__", None) not in modules
    ]
    assert not missing, f"not in docs/reference: {missing}"
