"""What artifacts are called: a key is a hash of everything that a stage's result depends on, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gankd.code import code_of
from gankd.config import MethodConfig, digest
from gankd.method import Method, Stage


class Published(Protocol):
    """What of a store tells which artifacts there are."""

    def has(self, key: str) -> bool: ...
    def of_recipe(self, recipe: str) -> list[str]: ...


@dataclass(frozen=True)
class Names:
    """By stage: the artifact's key; its recipe, which is the key but for code; the seed it sees; the code's identity."""

    keys: dict[str, str] = field(default_factory=dict)
    recipes: dict[str, str] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    code: dict[str, dict[str, Any]] = field(default_factory=dict)


def name_artifacts(
    method: Method,
    config: MethodConfig,
    fingerprint: str,
    salt: str = "",
    repetition: int = 0,
    stale: Published | None = None,
) -> Names:
    """The names of all artifacts of a config.

    A key holds the stage's name and function, the code it runs, the knobs it reads, the seed, the data's fingerprint and
    the keys of its inputs. `repetition` is added to the seed of the stages that a repetition over seeds makes anew.
    `stale`: a store from which an artifact of the same recipe is taken, the newest, where this code has made none.
    """
    names = Names()
    for stage in method.stages:
        seed = config.seed + (repetition if stage.per_seed else 0)
        content = {
            "stage": stage.name,
            "function": stage.run,
            **stage.identity(config),
            "seed": seed,
            "data": fingerprint,
            "salt": salt,
        }
        keyed = stage.keyed_inputs(config)
        code = _code(method, stage) | {"version": stage.version}
        recipe = f"{stage.name}-{digest(content | {'inputs': {name: names.recipes[name] for name in keyed}})}"
        inputs = {name: names.keys[name] for name in keyed}
        key = f"{stage.name}-{digest(content | {'code': code, 'inputs': inputs})}"
        if stale is not None and not stale.has(key):
            key = next(reversed(stale.of_recipe(recipe)), key)
        names.keys[stage.name], names.recipes[stage.name] = key, recipe
        names.seeds[stage.name], names.code[stage.name] = seed, code
    return names


def stage_keys(method: Method, config: MethodConfig, fingerprint: str, salt: str = "") -> dict[str, str]:
    """Stage name -> key of its artifact."""
    return name_artifacts(method, config, fingerprint, salt).keys


def code_of_stages(method: Method) -> str:
    """One digest over the code of all stages of a method."""
    return digest({stage.name: _code(method, stage) for stage in method.stages})


def _code(method: Method, stage: Stage) -> dict[str, Any]:
    return code_of(stage.run, tuple(sorted(method.networks.items()))).identity()


def changed_code(names: Names, old: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Of the stages with an artifact by other code, `old` (stage -> its manifest), those whose own code it is that changed."""
    return [stage for stage, manifest in old.items() if manifest.get("code") != names.code[stage]]
