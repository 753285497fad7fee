"""From a recipe (what a stage is made from, without its code) to the artifacts that were made by it.

An empty file `recipes/<recipe>/<key>` is written after the artifact is published, and says no more than that: whether
the artifact is still there is asked when the recipe is read.
"""

from collections import defaultdict
from collections.abc import Set
from contextlib import suppress

from gankd.store.artifact import MANIFEST
from gankd.store.storage import Storage, checked


def note(storage: Storage, recipe: str, key: str) -> None:
    """Notes that the artifact `key` was made by `recipe`."""
    with suppress(FileNotFoundError):  # `forget` took the folder away in this very moment: the stage is made again, once
        storage.write_bytes(f"recipes/{checked(recipe)}/{checked(key)}", b"")


def keys_of(storage: Storage, recipe: str) -> list[str]:
    """The keys that were noted for a recipe, also of what is gone since."""
    return list(storage.names(f"recipes/{checked(recipe)}"))


def forget(storage: Storage, present: Set[str]) -> None:
    """Deletes the notes of artifacts that are neither `present` nor published since that was looked up."""
    noted = defaultdict(list)
    for info in storage.list("recipes"):
        _, recipe, key = info.name.split("/", 2)
        noted[recipe].append(key)
    for recipe, keys in noted.items():
        gone = [key for key in keys if key not in present and not storage.exists(f"artifacts/{key}/{MANIFEST}")]
        for key in gone:
            storage.delete(f"recipes/{recipe}/{key}")
        if len(gone) == len(keys):
            storage.delete_folder(f"recipes/{recipe}")
