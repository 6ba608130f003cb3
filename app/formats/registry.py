"""All upload formats: the modules of this package that have NAME, SPECIFICITY, `sniff` and `read`."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import cast

import app.formats
from app.formats.base import Format


@cache
def formats() -> tuple[Format, ...]:
    """Every format, the most specific first."""
    modules = [import_module(f"app.formats.{found.name}") for found in pkgutil.iter_modules(app.formats.__path__)]
    known = [
        cast(Format, module)
        for module in modules
        if all(hasattr(module, name) for name in ("NAME", "SPECIFICITY", "sniff", "read"))
    ]
    return tuple(sorted(known, key=lambda one: (-one.SPECIFICITY, one.NAME)))


def recognised(head: bytes) -> Format | None:
    """The format of a file that begins with these bytes."""
    return next((one for one in formats() if one.sniff(head)), None)
