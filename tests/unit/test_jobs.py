"""Chains of jobs on the slots of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from gankd.sweep.jobs import in_parts


@pytest.mark.parametrize(
    ("chains", "slots", "expected"),
    [
        ([[1, 2], [3, 4]], 2, [[[1, 2]], [[3, 4]]]),
        ([[1, 2, 3], [4, 5, 6], [7, 8, 9]], 2, [[[1, 2, 3]], [[4, 5, 6]], [[7, 8], [9]]]),
        ([[1, 2, 3, 4]], 8, [[[1], [2], [3], [4]]]),
        ([[1, 2], [3, 4], [5, 6]], 1, [[[1, 2]], [[3, 4]], [[5, 6]]]),
        ([[1, 2], [3, 4]], 3, [[[1, 2]], [[3, 4]]]),
        ([[1]], 4, [[[1]]]),
        ([], 2, []),
    ],
)
def test_the_last_chains_share_the_slots_that_would_idle(chains: Any, slots: int, expected: Any) -> None:
    assert in_parts(chains, slots) == expected
