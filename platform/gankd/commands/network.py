"""A registered network as the commands use it, and what its tags say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gankd.data import DataConfig, DataSet, load
from gankd.errors import UserError
from gankd.registry import find_method
from gankd.tracking.model_registry import load as fetch
from gankd.tracking.model_registry import version_tags


def registered_network(uri: str, model: str) -> tuple[Any, dict[str, str]]:
    """A registered network, in eval mode on the CPU, and the tags of its version.

    Raises UserError for an unknown model, and for a version whose files or tags are missing or damaged.
    """
    from gankd import models

    tags = version_tags(uri, model)
    find_method(tag(tags, "gankd.method", model))  # the recipe may name a network of the method's own
    folder = fetch(uri, model)
    try:
        network = models.load(folder)
    except UserError as error:
        raise UserError(f"the registered model {model!r} cannot be used: {error}") from error
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(f"the registered model {model!r} has NaN or infinite numbers in {name!r}; choose another version")
    return network, tags


def registered_data(tags: Mapping[str, str], model: str) -> DataSet:
    """The data that a registered network was made for. Raises UserError for a damaged tag."""
    try:
        config = DataConfig(**json_tag(tags, "gankd.data_config", model))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the tag 'gankd.data_config' of the registered model {model!r} is damaged ({reason}); choose another one"
        ) from error
    return load(config)


def tag(tags: Mapping[str, str], name: str, model: str) -> str:
    """A tag of a version. Raises UserError when gankd did not set it, or someone deleted it."""
    if name not in tags:
        raise UserError(f"the registered model {model!r} has no tag {name!r}; choose a version that a sweep of gankd registered")
    return tags[name]


def json_tag(tags: Mapping[str, str], name: str, model: str) -> dict[str, Any]:
    """A tag that holds a JSON object. Raises UserError as `tag`, and when it holds something else."""
    text = tag(tags, name, model)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"the tag {name!r} of the registered model {model!r} is damaged ({text[:40]!r}); choose another version")
    return found
