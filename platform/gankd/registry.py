"""Finds methods: folders of the package `methods`, and outside packages by the entry-point group `gankd.methods`."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from gankd import models
from gankd.config import nearest
from gankd.errors import UserError
from gankd.method import Method

GROUP = "gankd.methods"


@cache
def _on_path(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Looked for once: it reads the metadata of every installed package, and a sweep asks for its method often."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _outside() -> dict[str, EntryPoint]:
    return _on_path(tuple(sys.path))


def method_names() -> list[str]:
    """Names of all methods that can be found, sorted; imports none of them."""
    spec = importlib.util.find_spec("methods")
    folders = spec.submodule_search_locations if spec else None
    inside = [module.name for module in pkgutil.iter_modules(folders) if module.ispkg] if folders else []
    return sorted({*inside, *_outside()})


def find_method(name: str) -> Method:
    """The method `name`; from now on recipes may name its networks.

    Raises UserError with the nearest name when there is none, or when its package does not load.
    """
    names = method_names()
    if name not in names:
        raise UserError(f"unknown method {name!r}{nearest(name, names)} (known: {', '.join(names)})")
    outside = _outside()
    if name in outside:
        method = outside[name].load()
    else:
        method = importlib.import_module(f"methods.{name}").METHOD
    if not isinstance(method, Method):
        raise UserError(f"the entry point {name!r} of {GROUP} must be a gankd.method.Method, not {type(method).__name__}")
    models.allow(method.networks)
    return method
