"""Where a run comes from, as MLflow's columns *Dataset* and *Source* show it: the data set, the command, the commit, the user."""

from __future__ import annotations

import contextlib
import getpass
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import gankd

DIGEST_CHARS = 16  # of the fingerprint: MLflow allows 36, its column has room for these


@dataclass(frozen=True)
class DataInput:
    """The data set that a sweep reads.

    Attributes:
        fingerprint: sha256 (hex) of the data set.
        source: the file or folder it was read from, or the package that brings it along.
        image_shape: channels, height, width.
        images: number of images by part.
        in_all_trials: False where a searched knob chooses the data: then only the sweep's own run is said to read this set.
    """

    name: str
    fingerprint: str
    source: str
    image_shape: tuple[int, ...] = ()
    images: Mapping[str, int] = field(default_factory=dict)
    in_all_trials: bool = True

    @property
    def digest(self) -> str:
        return self.fingerprint[:DIGEST_CHARS]

    def to_mlflow(self) -> Any:
        """As an `mlflow.entities.DatasetInput`, which `mlflow.data.get_source` can read."""
        from mlflow.entities import Dataset, DatasetInput

        local = Path(self.source).is_absolute()
        source = {"uri": self.source} if local else {"tags": {"mlflow.source.name": self.source}}
        tensor = {"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, *self.image_shape]}}
        return DatasetInput(
            Dataset(
                name=self.name,
                digest=self.digest,
                source_type="local" if local else "code",
                source=json.dumps(source),
                schema=json.dumps({"mlflow_tensorspec": {"features": json.dumps([tensor]), "targets": None}}),
                profile=json.dumps({f"{part}_images": count for part, count in self.images.items()}),
            )
        )


@cache
def source_tags() -> dict[str, str]:
    """MLflow's tags of the command, the commit of this package where it lies in a git checkout, and the user."""
    command = Path(sys.argv[0]).name
    tags = {"mlflow.source.name": command if command not in ("", "-c", "-m") else "gankd", "mlflow.source.type": "LOCAL"}
    commit, edited = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    # A package that is merely installed somewhere below another project's checkout is not of its commit.
    if commit and _git("ls-files", "__init__.py"):
        tags |= {"mlflow.source.git.commit": commit, "mlflow.source.git.dirty": str(bool(edited)).lower()}
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _git(*command: str) -> str:
    """What git says in the package's folder; empty without git or outside a checkout."""
    folder = Path(gankd.__file__).parent
    try:
        done = subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
