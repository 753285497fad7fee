"""Records what the stages make now: `.venv/bin/python tests/golden/renew.py [METHOD ...]`, all methods if none is named.

Refuses a stage that makes something else under the same key: artifacts of the old result would be taken for the new one.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT)]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.golden.sketch import CALM, FOLDER, Sketch, differences, golden, make_sketch  # noqa: E402


def dishonest(before: Sketch, after: Sketch) -> list[str]:
    """The stages that differ under one key."""
    return [stage for stage in differences(before, after) if stage in before and before[stage]["key"] == after[stage]["key"]]


def renew(method: str) -> str:
    """Record a method's stages; a sentence about what has changed."""
    with tempfile.TemporaryDirectory() as folder:
        made = make_sketch(method, Path(folder))
    file = FOLDER / f"{method}.json"
    before = golden(method) if file.exists() else {}
    if same_key := dishonest(before, made):
        raise SystemExit(f"{method}: {', '.join(same_key)} changed, but not the key: raise the stage's `version` first")
    changed = differences(before, made)
    text = json.dumps(made, indent=1)
    file.write_text(text.replace("[\n     ", "[").replace(",\n     ", ", ").replace("\n    ]", "]") + "\n")
    return f"{method}: " + ("; ".join(f"{stage} {how}" for stage, how in changed.items()) or "as before")


if __name__ == "__main__":
    for name in sys.argv[1:] or CALM:
        print(renew(name))
