"""What stands behind a sweep's numbers, for its report: curves, pictures, and where each artifact comes from."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gankd.metrics.directions import direction
from gankd.page import Curves, Line, Node, Picture, Pictures, Tree
from gankd.sweep.cost import device_seconds, seconds
from gankd.sweep.traces import Traces

SHARED = "shared"
CURVES_PER_STAGE = 2  # metrics
TELLING = ("val_accuracy", "val_mae", "fid", "recall")  # how the names of those begin that are drawn first: FID sees no collapse
PICTURES_OF_A_KIND = 4
PICTURE_BYTES = 3_000_000  # of all pictures of a page


@dataclass(frozen=True)
class Use:
    """That something on the page (a row, a trial) was made with these artifacts (stage -> key), with a seed or without one."""

    name: str
    keys: Mapping[str, str]
    seed: str = ""


@dataclass(frozen=True)
class Evidence:
    """What a sweep used, and what is known of it."""

    sweep: str
    stages: Sequence[str]
    uses: Sequence[Use]
    traces: Traces
    manifests: Mapping[str, Mapping[str, Any]]

    def users(self) -> dict[str, dict[str, None]]:
        """Key -> the names that use it, in order."""
        users: dict[str, dict[str, None]] = defaultdict(dict)
        for use in self.uses:
            for key in use.keys.values():
                users[key][use.name] = None
        return users

    def of_stages(self) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
        """Stage -> key -> (the name that alone uses it, or "shared", and the seed), in order."""
        users = self.users()
        for stage in self.stages:
            found: dict[str, tuple[str, str]] = {}
            for use in self.uses:
                if key := use.keys.get(stage):
                    names = list(users[key])
                    found.setdefault(key, (names[0] if len(names) == 1 else SHARED, use.seed))
            if found:
                yield stage, found


def curves(evidence: Evidence) -> list[Curves]:
    """What stages measured while they trained, a drawing for each metric that knows better and worse."""
    order = (SHARED, *dict.fromkeys(use.name for use in evidence.uses))
    drawn = []
    for _, keys in evidence.of_stages():
        by_metric: dict[str, list[Line]] = defaultdict(list)
        for key, (name, _) in keys.items():
            for metric, steps in evidence.traces.curves.get(key, {}).items():
                if direction(metric) and not metric.partition("/")[2].startswith("loss"):
                    by_metric[metric].append(Line(name, tuple(sorted(steps.items()))))
        lasting = [metric for metric, lines in by_metric.items() if any(len(line.points) > 1 for line in lines)]
        first = sorted(lasting, key=_place_of_metric)[:CURVES_PER_STAGE]
        drawn += [Curves(metric, tuple(by_metric[metric]), order) for metric in first]
    return drawn


def _place_of_metric(metric: str) -> int:
    name = metric.partition("/")[2]
    return next((place for place, start in enumerate(TELLING) if name.startswith(start)), len(TELLING))


class PictureBudget:
    """How many bytes of pictures a page still takes."""

    def __init__(self, left: int = PICTURE_BYTES) -> None:
        self.left = left

    def take(self, png: str) -> bool:
        """Whether this one fits, which is then taken off."""
        if len(png) > self.left:
            return False
        self.left -= len(png)
        return True


def pictures(evidence: Evidence, budget: PictureBudget) -> list[Pictures]:
    """The last pictures that stages logged: a few of each kind, the first seeds' first."""
    found = []
    for stage, keys in evidence.of_stages():
        kinds = dict.fromkeys(name for key in keys for name in evidence.traces.pictures.get(key, {}))
        for kind in kinds:
            shown: list[Picture] = []
            there = 0
            for key, (name, seed) in sorted(keys.items(), key=lambda item: _number(item[1][1])):
                _, png = evidence.traces.pictures.get(key, {}).get(kind, (0, ""))
                if not png:
                    continue
                there += 1
                if len(shown) < PICTURES_OF_A_KIND and (whole := readable(png)) and budget.take(whole):
                    caption = ", ".join(filter(None, (name, seed, short(key))))
                    shown.append(Picture(caption, whole))
            left_out = f"{there - len(shown)} more are with the runs of {stage} in MLflow." if there > len(shown) else ""
            if there:
                found.append(Pictures(kind, tuple(shown), left_out))
    return found


def _number(seed: str) -> int:
    digits = "".join(filter(str.isdecimal, seed))
    return int(digits) if digits else -1


def readable(png: str) -> str:
    """A picture's base64, written anew; empty for one that no browser could show."""
    from PIL import Image

    try:
        data = base64.b64decode(png, validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            picture.load()
    except Exception:  # whatever a decoder raises
        return ""
    return base64.b64encode(data).decode()


def short(key: str) -> str:
    """A key as a page shows it: the stage and the beginning of the digest."""
    stage, _, digest = key.rpartition("-")
    return f"{stage} {digest[:8]}"


def lineage(evidence: Evidence, called: str) -> Tree:
    """For each name and seed its artifacts: from what, at what cost, by whom, and who else uses it. `called`: what names are."""
    users = evidence.users()
    nodes = []
    for name in dict.fromkeys(use.name for use in evidence.uses):
        uses = [use for use in evidence.uses if use.name == name]
        below = [_artifacts(evidence, use, users) for use in uses]
        nodes.append(Node(name, below=below[0] if len(below) == 1 and not uses[0].seed else _by_seed(uses, below)))
    note = f"Underlined: used by several {called}s, and made once."
    return Tree("Where each number comes from", tuple(nodes), note)


def _by_seed(uses: Sequence[Use], below: Sequence[tuple[Node, ...]]) -> tuple[Node, ...]:
    return tuple(Node(use.seed or "no seed of its own", below=nodes) for use, nodes in zip(uses, below, strict=True))


def _artifacts(evidence: Evidence, use: Use, users: Mapping[str, Mapping[str, None]]) -> tuple[Node, ...]:
    return tuple(_artifact(evidence, use, use.keys[stage], users) for stage in evidence.stages if stage in use.keys)


def _artifact(evidence: Evidence, use: Use, key: str, users: Mapping[str, Mapping[str, None]]) -> Node:
    manifest, maker = evidence.manifests.get(key), evidence.traces.makers.get(key)
    said = []
    if manifest is None:
        said.append("gone from the store")
    else:
        inputs = [short(other) for stage, other in manifest.get("inputs", {}).items() if use.keys.get(stage) == other]
        said += [f"from {', '.join(inputs)}"] if inputs else []
        said.append(f"{seconds(device_seconds(manifest))} device-seconds")
    if maker:
        by = maker[1] or "its shared stages"
        said.append(f"made by {by}" if maker[0] == evidence.sweep else f"made by sweep {maker[0]}, {by}")
    others = [other for other in users[key] if other != use.name]
    if others:
        said.append(f"also of {', '.join(others[:4])}{f' and {len(others) - 4} more' if len(others) > 4 else ''}")
    return Node(short(key), " · ".join(said), shared=bool(others))
