"""Which numbers compare: those that depend on the same data, judge and whatever else their stages have put down."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def facts_of(metric: str, manifest: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """All that a `<metric>` in an artifact's manifest depends on: two numbers compare only where these facts are equal.

    The metric's name (not the stage's), the data's fingerprint, and what the stage says: the extractor with its weights and
    numbers of images, or for a network that is measured itself its architecture.
    """
    facts: dict[str, Any] = {"metric": metric, "data": fingerprint}
    for suffix, part in manifest.get("basis", {}).items():
        if not suffix or metric == suffix or metric.endswith(f"_{suffix}"):
            facts |= part
    return facts


def comparable_groups(facts: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """A letter for each set of facts, the most frequent first, equal ones for equal facts; and, where there are several
    letters, a sentence on what differs."""
    texts = [json.dumps(each, sort_keys=True) for each in facts]
    frequent = {text: chr(ord("a") + place) for place, (text, _) in enumerate(Counter(texts).most_common())}
    letters = [frequent[text] for text in texts]
    if len(frequent) < 2:
        return letters, []
    differing = sorted(name for name in {name for each in facts for name in each} if len({_text(f, name) for f in facts}) > 1)
    return letters, [f"Only rows of the same letter compare; they differ in: {', '.join(differing)}."]


def _text(facts: Mapping[str, Any], name: str) -> str:
    return json.dumps(facts.get(name), sort_keys=True)
