"""Data sets are prepared once into the store, and mapped into memory from there: N processes share one copy's pages.

It stands above `data` and `store`, which know nothing of each other.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

from gankd.data import DataConfig, DataSet, prepared, read_config
from gankd.errors import UserError
from gankd.store import Artifact, Store
from gankd.store.storage import explain_full_disk


def obtain(store: Store, config: DataConfig, fingerprint: str = "", *, test: bool = False) -> DataSet:
    """The data set that `config` names, mapped from the store; read and published first where the store lacks it.

    fingerprint: of the data, where it is known: then a stored set is found without reading the user's files.
    test: whether the test part comes with it.

    Raises UserError for data of another fingerprint, and as `load` does.
    """
    artifact = _known(store, config, fingerprint) if fingerprint else _prepare(store, config)
    # Equal data may have another name elsewhere.
    return replace(prepared.read(artifact.path, test=test), name=config.dataset)


def _known(store: Store, config: DataConfig, fingerprint: str) -> Artifact:
    """The stored set of this fingerprint; one process at a time prepares a missing one, for it holds a copy meanwhile."""
    key = prepared.key(fingerprint)
    if (artifact := store.get(key)) is not None:
        return artifact
    with store.lease(key):
        return store.get(key) or _prepare(store, config, fingerprint)


def _prepare(store: Store, config: DataConfig, fingerprint: str = "") -> Artifact:
    """Read the data by its config and publish it. The arrays in memory are given back when this returns."""
    data = read_config(config)
    if fingerprint and data.fingerprint != fingerprint:
        raise UserError(
            f"data set {data.name!r} has the fingerprint {data.fingerprint[:12]} here and had {fingerprint[:12]} where the "
            "sweep was started: give all machines the same files, or start a new sweep for the changed data"
        )
    key = prepared.key(data.fingerprint)
    if (artifact := store.get(key)) is not None:
        return artifact
    folder = store.scratch(key)
    try:
        with explain_full_disk(folder):
            prepared.write(data, folder)
        facts = {"stage": "data", "config": config.model_dump(mode="json"), "fingerprint": data.fingerprint, "metrics": {}}
        return store.publish(key, folder, facts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
