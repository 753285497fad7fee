"""Text from outside as values: YAML gives only structure, and a knob's declared type decides how its text is read.

YAML's own guesses are not used: by them 010 is 8, 1:30 is 90, no is false, 2024-01-02 is a date and "a #1" is "a".
"""

from __future__ import annotations

import re
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

from gankd.errors import UserError

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
BOOLEANS = {"true": True, "false": False, "True": True, "False": False}
NULLS = ("null", "~", "")  # unquoted, in YAML
DEEPEST, LONGEST = 16, 1_000_000  # levels; characters


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or what it is called."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def read_yaml(text: str, what: str) -> Any:
    """Nested dicts, lists, texts and None (an unquoted null). Raises UserError, starting with `what`, for text that is no YAML
    and for what a config needs none of: aliases (`*a`), tags (`!!set`), several documents, a key given twice.
    """
    if len(text) > LONGEST:
        raise UserError(f"{what} holds {len(text):,} characters; {LONGEST:,} are allowed")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):  # flat: however deep, no recursion
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise UserError(f"{what} is nested deeper than {DEEPEST} levels{_line(event)}")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise UserError(f"{what} uses a YAML anchor or alias{_line(event)}; write the value out")
            if getattr(event, "tag", None):
                raise UserError(f"{what} uses the YAML tag {event.tag!r}{_line(event)}; write plain values")
        return _value(yaml.compose(text, Loader=yaml.SafeLoader), what)
    except yaml.MarkedYAMLError as error:
        reason = " ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"{what} is not readable YAML{_line(error)}: {reason}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{what} is not readable YAML: {' '.join(str(error).split())}") from None


def _line(place: Any) -> str:
    mark = getattr(place, "problem_mark", None) or getattr(place, "start_mark", None)
    return f" in line {mark.line + 1}" if mark else ""


def _value(node: yaml.Node | None, what: str) -> Any:
    if node is None:
        return None
    if isinstance(node, yaml.ScalarNode):
        return None if node.style is None and node.value in NULLS else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, what) for item in node.value]
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{what} has a key that is no name{_line(key)}")
        if key.value in found:
            raise UserError(f"{what} gives {key.value!r} twice{_line(key)}; keep one of them")
        found[key.value] = _value(value, what)
    return found


def typed(kind: Any, value: Any, what: str) -> Any:
    """`value` with its texts read as the declared type `kind` asks; what fits none stays, for the config to refuse.

    A knob that may be text keeps it as it stands. Else null, true and false, numbers (1e3 is one, also of an integer) and lists,
    as YAML writes them.
    """
    kinds = alternatives(kind)
    if isinstance(value, list | tuple):
        items = next((get_args(each) for each in kinds if get_origin(each) in (tuple, list)), ())
        fixed = len(items) == len(value) and Ellipsis not in items
        return [typed(items[place if fixed else 0] if items else Any, item, what) for place, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    if value == "null" and NoneType in kinds:
        return None
    if str in kinds or Any in kinds or value in [choice for each in kinds for choice in get_args(each)]:
        return value
    if bool in kinds:
        if value not in BOOLEANS:
            raise UserError(f"{what} cannot be {shortened(value)}: true or false")
        return BOOLEANS[value]
    if any(get_origin(each) in (tuple, list) for each in kinds) and value.lstrip().startswith("["):
        return typed(kind, read_yaml(value, what), what)
    return _number(value) if NUMBER.fullmatch(value) else value


def _number(text: str) -> int | float:
    number = float(text)
    if not text.lstrip("+-").isdecimal():
        return int(number) if number.is_integer() else number
    return int(text) if len(text) < 100 else number


def alternatives(kind: Any) -> list[Any]:
    """The types that a declared type allows: those of a union, without annotations."""
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (None, tuple, list, Literal):
        return [kind]
    return [each for part in get_args(kind) for each in alternatives(part)]


def shortened(value: Any, longest: int = 120) -> str:
    """`value` as it is shown in a sentence: its beginning and its end, where a path says most."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__}"
    return text if len(text) <= longest else f"{text[: longest // 3]}...{text[-longest // 3 :]} ({len(text):,} characters)"


def seconds_of(text: str) -> float:
    """A time such as 90s, 30m, 2h or 1h30m. Raises UserError for anything else, and for none at all."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip())
    seconds = sum(int(n or 0) * unit for n, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    if not 0 < seconds < 10**9:
        raise UserError(f"a time cannot be {text!r}: it is a number of s, m or h, such as 90s, 30m, 2h or 1h30m")
    return float(seconds)
