"""The outside package in `plugin`, for tests of what the platform does with any method (tiny stages, nothing of a paper), and
a tracked sweep."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture
def sweep(tmp_path: Path, empty_store: Path) -> Sweep:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return Sweep(tmp_path)
