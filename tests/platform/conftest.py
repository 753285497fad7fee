"""The outside package in `plugin`, for tests of what the platform does with any method (tiny stages, nothing of a paper), and
a tracked sweep."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gankd.tracking.database import prepare
from tests.platform.tracking_fixtures import Sweep

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module")
def plugin() -> Iterator[Path]:
    """The package can be imported, and its entry points found; its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLUGIN))
        yield PLUGIN
    for name in [name for name in sys.modules if name.partition(".")[0] == "gankd_tiny"]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with its tables made: making them takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    prepare(f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture
def sweep(tmp_path: Path, empty_store: Path) -> Sweep:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return Sweep(tmp_path)
