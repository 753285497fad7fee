"""Tags longer than MLflow's stores take: what describes a version must not be cut."""

from __future__ import annotations

from collections.abc import Mapping

LONGEST = 5000  # characters of a version's tag


def in_pieces(texts: Mapping[str, str]) -> dict[str, str]:
    """Tags that MLflow takes: a longer text goes on in `<name>.2`, `<name>.3`, ..."""
    pieces = {}
    for name, text in texts.items():
        for place, start in enumerate(range(0, max(1, len(text)), LONGEST)):
            pieces[f"{name}.{place + 1}" if place else name] = text[start : start + LONGEST]
    return pieces


def whole(tags: Mapping[str, str]) -> dict[str, str]:
    """The texts of tags that `in_pieces` has cut."""
    texts = dict(tags)
    for name in tags:
        place = 2
        while (piece := texts.pop(f"{name}.{place}", None)) is not None:
            texts[name] += piece
            place += 1
    return texts
