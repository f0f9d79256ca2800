"""Public names of a package that are loaded from their modules when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """What a package binds to ``__getattr__``; a name is looked up once and stays in the package.

    Args:
        package: its ``__name__``.
        homes: by public name the module that has it, relative to the package: ``{"Bundle": "bundle"}``.

    Returns:
        A function of a name; it raises AttributeError for those that are not public.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{homes[name]}", package), name)
        setattr(sys.modules[package], name, value)
        return value

    return load
