"""Typed knobs. A method's config is a tree of frozen sections; a preset is a YAML file holding only differences.

Every knob carries bounds, a unit and where its default comes from. Whatever is wrong with a value is said in one sentence.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gankd.data.config import DataConfig
from gankd.errors import UserError
from gankd.paths import absolute_path, file_digest, is_file, read_text
from gankd.text import alternatives, read_yaml, shortened, typed

BEYOND = 2**31  # a number as large as this is a slip of the hand, and no machine's
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str)  # made once: a sweep names 100,000 trials
Config = TypeVar("Config", bound=BaseModel)


class Section(BaseModel):
    """The knobs of one stage. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def inert(self) -> frozenset[str]:
        """Knobs that, with the present values of the others, change nothing of what the stage leaves, and inputs that it then
        only looks with: its key omits them."""
        return frozenset()

    def unread(self) -> frozenset[str]:
        """Inputs that, with the present values, the stage does not open: they are not made for it, and not passed."""
        return frozenset()


class Selection:
    """Some knobs of a section, for a stage that reads no other: reading one of those is an error."""

    def __init__(self, section: Section, names: Collection[str], owner: str) -> None:
        self.section, self.names, self.owner = section, sorted(names), owner

    def __getattr__(self, name: str) -> Any:
        if name not in self.names:
            raise AttributeError(f"this stage does not read {self.owner}.{name}: name it in the sections of its Stage")
        return getattr(self.section, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selection) and self.model_dump() == other.model_dump()

    def model_dump(self, mode: Literal["json", "python"] = "python") -> dict[str, Any]:
        return self.section.model_dump(mode=mode, include=set(self.names))

    def unread(self) -> frozenset[str]:
        """None: that is said by the stage's own section."""
        return frozenset()

    def inert(self) -> frozenset[str]:
        """Of these knobs only: what a part of a section says of inputs does not hold for a stage that reads no more of it."""
        return self.section.inert() & set(self.names)


class MethodConfig(Section):
    """All knobs of a method: the data, the seed, and a section per stage (added by the method)."""

    data: DataConfig = DataConfig()
    seed: int = Field(0, ge=0, lt=2**31, description="seed of every random draw", json_schema_extra={"origin": "ours"})

    @model_validator(mode="before")
    @classmethod
    def _on_top_of_the_methods_defaults(cls, tree: Any) -> Any:
        """A section that is given in part keeps the rest of the method's own default, which may differ from its class's."""
        if not isinstance(tree, Mapping):
            return tree
        sections = {name: info.default for name, info in cls.model_fields.items() if isinstance(info.default, BaseModel)}
        given = {name: value for name, value in tree.items() if name in sections and isinstance(value, Mapping)}
        return {**tree, **{name: {**sections[name].model_dump(), **value} for name, value in given.items()}}


def knob(default: Any, description: str, *, origin: str, unit: str = "", **bounds: Any) -> Any:
    """A field of a section: default, what it is, where the default comes from, its unit and pydantic bounds (ge, lt, ...).

    The unit "path" marks a file: it is made absolute, and in keys its content stands for it.
    """
    return Field(default, description=description, json_schema_extra={"origin": origin, "unit": unit}, **bounds)


def digest(value: Any) -> str:
    """20 hex digits of the sha256 of `value` as canonical JSON."""
    return hashlib.sha256(CANONICAL.encode(value).encode()).hexdigest()[:20]


def identity(section: Section | Selection) -> dict[str, Any]:
    """What a section means for an artifact's key: its values but inert ones, and for files their content.

    Raises UserError for a missing file.
    """
    values = section.model_dump(mode="json")
    fields = type(section.section if isinstance(section, Selection) else section).model_fields
    for name in section.inert() & values.keys():
        del values[name]
    for name in values:
        if is_path(fields[name]) and values[name] is not None:
            try:
                values[name] = file_digest(Path(values[name]))
            except OSError as error:
                raise UserError(f"the file {values[name]!r} of knob {name!r} cannot be read: {error.strerror}") from None
    return values


def is_path(info: Any) -> bool:
    """Whether a knob holds the path of a file or folder."""
    return isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("unit") == "path"


def path_knobs(config: MethodConfig) -> dict[str, str]:
    """{dotted knob: path} of the files and folders that a config names, absolute: workers, and who resumes, are elsewhere."""
    tree = config.model_dump(mode="json")
    paths = {name: value_of(tree, name) for name, info in knobs(type(config)).items() if is_path(info)}
    return {name: absolute_path(path, f"knob {name!r}") for name, path in paths.items() if path is not None}


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' when something else is close, '' when nothing is or the name itself is known."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near and near[0] != name else ""


def knobs(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> pydantic FieldInfo of every knob of a config class."""
    found: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found.update(knobs(inner, f"{prefix}{name}."))
        else:
            found[prefix + name] = info
    return found


def preset_names(folder: Path) -> list[str]:
    """Presets of a method, the default one (`digits`) first."""
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    return sorted(names, key=lambda name: name != "digits")


def preset_file(folder: Path, preset: str) -> Path:
    """The YAML file of a preset: a name in `folder`, or the path of a user's own. Raises UserError when there is none."""
    if is_file(file := folder / f"{preset}.yaml"):
        return file
    if (file := Path(preset)).suffix in (".yaml", ".yml") and is_file(file):
        return file
    names = preset_names(folder)
    raise UserError(
        f"unknown preset {shortened(preset)}{nearest(preset, names)} (known: {', '.join(names)}; or give the path of a YAML file)"
    )


def read_preset(folder: Path, preset: str) -> dict[str, Any]:
    """The differences that a preset holds, its values as texts. `preset` is a name in `folder` or a path to a YAML file."""
    file = preset_file(folder, preset)
    content = read_yaml(read_text(file, "preset"), f"preset {file}")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"preset {file} must hold sections (a YAML mapping), not a {type(content).__name__}")
    return content


def with_knobs(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with dotted knobs replaced."""
    result: dict[str, Any] = deepcopy(dict(tree))
    for dotted, value in changes.items():
        *sections, last = dotted.split(".")
        place = result
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise UserError(f"{section!r} in {dotted!r} is a knob, not a section")
        place[last] = value
    return result


def parse_overrides(assignments: Iterable[str]) -> dict[str, str]:
    """`--set a.b=v` as {dotted knob: text}; the knob's declared type decides how the text is read (`gankd.text`)."""
    changes: dict[str, str] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--set takes knob=value, not {shortened(text)} (example: --set student.lr=0.05)")
        changes[name.strip()] = value
    return changes


def build_config(config: type[Config], tree: Mapping[str, Any], source: str = "") -> Config:
    """The validated config. Raises UserError naming the first wrong knob, its value, and what is allowed."""
    try:
        return config.model_validate(_typed(config, tree, "", source))
    except ValidationError as error:
        raise UserError(_sentence(config, error, source)) from None


def _typed(config: type[BaseModel], tree: Mapping[str, Any], prefix: str, source: str) -> dict[str, Any]:
    """`tree` with its texts read as the knobs' types ask. What no section knows stays, for the config to refuse."""
    result = dict(tree)
    for name, info in config.model_fields.items():
        inner, value = info.annotation, result.get(name)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if isinstance(value, Mapping):
                result[name] = _typed(inner, value, f"{prefix}{name}.", source)
        elif name in result:
            value = result[name] = typed(inner, value, f"knob {prefix + name!r}")
            if int in alternatives(inner) and isinstance(value, int | float) and abs(value) >= BEYOND:
                tail = f" (in {source})" if source else ""
                raise UserError(f"knob {prefix + name!r} cannot be {shortened(value)}: it must be below {BEYOND}{tail}")
    return result


def _sentence(config: type[BaseModel], error: ValidationError, source: str) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
    known = knobs(config)
    tail = f" (in {source})" if source else ""
    if first["type"] == "extra_forbidden":
        sections = {name.rpartition(".")[0] for name in known} | set(known)
        return f"unknown knob {shortened(where)}{nearest(where, sections)}{tail}"
    if first["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{where!r} is a section and needs knobs below it, not {shortened(first['input'])}{tail}"
    others = len(error.errors()) - 1
    more = f"; {others} more knob{'s are' if others > 1 else ' is'} wrong too" if others else ""
    allowed = first["msg"].removeprefix("Value error, ")
    allowed = allowed[0].lower() + allowed[1:] if allowed else allowed
    return f"knob {where!r} cannot be {shortened(first['input'])}: {allowed}{more}{tail}"


def value_of(tree: Mapping[str, Any], dotted: str) -> Any:
    """The value of a dotted knob in a config tree."""
    value: Any = tree
    for part in dotted.split("."):
        value = value[part]
    return value
