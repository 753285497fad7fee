"""Artifacts by key under one storage root, checkpoints of what is unfinished, leases, and what happened (events)."""

from gankd.store.artifact import Artifact
from gankd.store.store import Store

__all__ = ["Artifact", "Store"]
