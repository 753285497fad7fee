"""Long tags come back whole."""

from __future__ import annotations

import pytest

from gankd.tracking.tags import LONGEST, in_pieces, whole


@pytest.mark.parametrize("length", [0, 1, LONGEST, LONGEST + 1, 3 * LONGEST, 3 * LONGEST + 7])
def test_a_long_text_is_cut_and_put_together(length: int) -> None:
    texts = {"gankd.config": "".join(chr(97 + place % 26) for place in range(length)), "gankd.method": "rgal"}
    pieces = in_pieces(texts)
    assert all(len(piece) <= LONGEST for piece in pieces.values())
    assert len(pieces) == 1 + max(1, -(-length // LONGEST))
    assert whole(pieces) == texts
