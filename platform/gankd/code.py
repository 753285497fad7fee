"""The code that a stage runs, as a digest for its key: an edited method is another method, an edited comment is not.

Followed are the definitions that a function reaches inside its own package (`methods.<name>`, or a plug-in's package), by
syntax tree: comments, docstrings, formatting and type annotations do not count. What it takes from gankd counts by the
version of the module (gankd.versions), which golden values hold. Nothing is imported but packages' `__init__`.

Not seen: what is looked up by name while running, but for a method's own networks (`Method.networks`).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gankd.versions import VERSIONS

PLATFORM = "gankd"
KNOB_MAKERS = ("knob", "Field")  # a field of a section: its value stands in the key, its description is no code

Find = Callable[[str], str | None]  # module -> its source, None where there is none
Name = tuple[str, str]  # module, and a name in it; "" for the module itself


@dataclass(frozen=True)
class Code:
    """What a function runs. `digest`: 20 hex digits over all definitions; `platform`: modules of gankd that it calls."""

    digest: str
    platform: frozenset[str]

    def identity(self) -> dict[str, object]:
        """What of it stands in a stage's key."""
        return {"digest": self.digest, "platform": {name: VERSIONS[name] for name in self.platform & VERSIONS.keys()}}


@functools.cache
def code_of(function: str, networks: tuple[tuple[str, str], ...] = ()) -> Code:
    """The code of "module:function", and of those of the method's `networks` (name, "module:class") that it names.

    Computed once per process: what a process has imported does not change by a later edit.
    """
    return _package(function.partition(".")[0].partition(":")[0], networks).code(function)


@functools.cache
def _package(root: str, networks: tuple[tuple[str, str], ...]) -> Package:
    return Package(root, dict(networks), source_of)


def source_of(module: str) -> str | None:
    """The source text of an importable module, None for one that has none or does not exist."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    origin = Path(spec.origin) if spec and spec.origin else None
    return origin.read_text(encoding="utf-8") if origin and origin.suffix == ".py" else None


@dataclass
class Module:
    """A module's top-level definitions by name, and what its imports bind."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Name] = field(default_factory=dict)


class Package:
    """The definitions of a package and what each reaches; every module is parsed once, every definition walked once."""

    def __init__(self, root: str, networks: Mapping[str, str], find: Find) -> None:
        self.root, self.networks, self.find = root, networks, find
        self._modules: dict[str, Module | None] = {}
        self._definitions: dict[Name, tuple[str, set[Name]]] = {}

    def code(self, function: str) -> Code:
        """What the function "module:name" runs."""
        module, _, name = function.partition(":")
        reached: dict[Name, str] = {}
        platform: set[str] = set()
        waiting: set[Name] = {(module, name)}
        while waiting:
            place = waiting.pop()
            if place[0].partition(".")[0] == PLATFORM:
                # `from gankd import models` names a module, `from gankd.stages.gan import fit_gan` something in one.
                platform.add(".".join(filter(None, place)) if place[0] == PLATFORM else place[0])
            elif place not in reached and self._inside(place[0]):
                reached[place], further = self._definition(place)
                waiting |= further - reached.keys()
        lines = [f"{module}:{name} {text}" for (module, name), text in sorted(reached.items()) if text]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:20] if lines else ""
        return Code(digest, frozenset(platform))

    def _inside(self, module: str) -> bool:
        return module.partition(".")[0] == self.root

    def _definition(self, place: Name) -> tuple[str, set[Name]]:
        """The text of a definition, empty for what only leads to others, and the names it refers to."""
        if place not in self._definitions:
            module, name = place
            parsed = self._module(module)
            if parsed is None:
                self._definitions[place] = "", set()
            elif name in parsed.definitions:
                nodes: list[ast.AST] = []
                text = "".join(_text(node, nodes) for node in parsed.definitions[name])
                self._definitions[place] = text, set(self._references(nodes, module, parsed))
            elif name in parsed.imports:  # imported there from elsewhere
                self._definitions[place] = "", {parsed.imports[name]}
            elif not name:  # the whole module
                self._definitions[place] = "", {(module, each) for each in parsed.definitions}
            else:
                self._definitions[place] = "", {(f"{module}.{name}", "")}
        return self._definitions[place]

    def _references(self, nodes: list[ast.AST], module: str, parsed: Module) -> Iterator[Name]:
        """What the names and strings among the nodes of a definition, outer ones first, stand for."""
        local, attributes = parsed.imports, set()
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                local = local | _bindings(node, module)
        for node in nodes:
            if isinstance(node, ast.Attribute):
                if isinstance(node.value, ast.Name) and node.value.id in local:
                    target = self._as_module(*local[node.value.id])
                    if target:
                        attributes.add(node.value)  # of a module only what is taken from it counts
                        yield target, node.attr
            elif isinstance(node, ast.Name) and node not in attributes:
                if node.id in local:
                    yield local[node.id]
                elif node.id in parsed.definitions:
                    yield module, node.id
            elif isinstance(node, ast.Constant) and node.value in self.networks:
                target, _, name = self.networks[str(node.value)].partition(":")
                yield target, name

    def _as_module(self, module: str, attribute: str) -> str | None:
        """The module of this package that an import binds, if it binds one."""
        if not self._inside(module):
            return None
        name = f"{module}.{attribute}" if attribute else module
        parsed = self._module(module)
        if attribute and parsed is not None and (attribute in parsed.definitions or attribute in parsed.imports):
            return None
        return name if self._module(name) is not None else None

    def _module(self, name: str) -> Module | None:
        if name not in self._modules:
            source = self.find(name)
            self._modules[name] = None if source is None else _parse(source, name)
        return self._modules[name]


def _parse(source: str, name: str) -> Module:
    module = Module()
    for node in _statements(ast.parse(source).body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module.imports.update(_bindings(node, name))
        else:
            for bound in _bound(node):
                module.definitions.setdefault(bound, []).append(node)
    return module


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, those inside `if`, `try` and `with` too."""
    for node in body:
        inner = [part for name in ("body", "orelse", "finalbody") for part in getattr(node, name, [])]
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from _statements([*inner, *(part for handler in getattr(node, "handlers", []) for part in handler.body)])
        else:
            yield node


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    return [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)]


def _bindings(node: ast.Import | ast.ImportFrom, module: str) -> dict[str, Name]:
    """What an import binds."""
    if isinstance(node, ast.Import):
        return {
            (a.asname or a.name.partition(".")[0]): (a.name if a.asname else a.name.partition(".")[0], "") for a in node.names
        }
    source = node.module or ""
    if node.level:
        source = ".".join([*module.split(".")[: -node.level], *([source] if source else [])])
    return {alias.asname or alias.name: (source, alias.name) for alias in node.names}


# Parts that leave no text; a name in an annotation still refers to something.
ANNOTATIONS = {"annotation", "returns", "type_params"}
SKIPPED = {"type_comment", "ctx", "simple", "kind", "type_ignores"}
REFERRING = (ast.Attribute, ast.Import, ast.ImportFrom)


def _text(node: object, nodes: list[ast.AST]) -> str:
    """A syntax tree as text without positions, docstrings, annotations and knobs' declarations; equal on all Pythons.

    Into `nodes` go the names, attributes, constants and imports in it, outer ones first: one walk for both, since every
    sweep starts with this.
    """
    if isinstance(node, ast.Name):
        nodes.append(node)
        return f"(Name id={node.id!r})"
    if isinstance(node, ast.Constant):
        nodes.append(node)
        return "(Constant)" if node.value is None else f"(Constant value={node.value!r})"
    if isinstance(node, list):
        return f"[{','.join(filter(None, [_text(each, nodes) for each in node]))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return ""  # a docstring, or a comment in the form of a string
    if isinstance(node, REFERRING):
        nodes.append(node)
    text = type(node).__name__
    for name in node._fields:
        value = getattr(node, name, None)
        if value is not None and value != [] and name not in SKIPPED:
            part = _text(value, nodes)
            if name not in ANNOTATIONS:
                text += f" {name}={part}"
    return "" if isinstance(node, ast.AnnAssign) and _is_knob(node.value) else f"({text})"


def _is_knob(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in KNOB_MAKERS
