"""The alias `champion` of a registered model: it moves only to a version that is better, and may be compared.

Of several that move it at once, the best one ends with it, on a server too, where nobody can be kept out meanwhile.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from gankd.tracking.client import pages, quoted
from gankd.tracking.database import alone
from gankd.tracking.tags import whole

WHY = "gankd.why_challenger"  # tag of a version that has been compared: why it is not the champion, empty where it is


def give_alias(client: Any, name: str, version: Any, value: float, facts: Mapping[str, Any], mode: str) -> str:
    """Make the version the champion or the challenger; why it is not the champion, empty where it is.

    Only versions with equal `facts` compare; `mode` is 'max' or 'min', which of their values is better.
    """
    with alone(client.tracking_uri):
        # Whoever has been compared before this look, his move of the alias is seen below. The others are rivals.
        settled = {found.version for found in _versions(client, name) if WHY in found.tags} | {version.version}
        reason = _why_no_champion(client, name, version, value, facts, mode)
        if not reason:
            client.set_registered_model_alias(name, "champion", version.version)
            best = value
            while rival := _better_rival(client, name, settled, best, facts, mode):
                client.set_registered_model_alias(name, "champion", rival.version)
                best = _value(rival)
                reason = _outdone(rival.version, best)
        if reason:
            client.set_registered_model_alias(name, "challenger", version.version)
        client.set_model_version_tag(name, version.version, WHY, reason)
        aliases = client.get_registered_model(name).aliases
        if aliases.get("challenger") == aliases.get("champion"):
            client.delete_registered_model_alias(name, "challenger")
        return reason


def _versions(client: Any, name: str) -> list[Any]:
    query = f"name = {quoted(name)}"
    return list(pages(lambda page_token: client.search_model_versions(query, page_token=page_token)))


def _better_rival(client: Any, name: str, settled: set[Any], best: float, facts: Mapping[str, Any], mode: str) -> Any:
    rivals = [v for v in _versions(client, name) if v.version not in settled and _facts(v) == facts]
    better = [v for v in rivals if _is_better(_value(v), best, mode)]
    return (max if mode == "max" else min)(better, key=_value, default=None)


def _why_no_champion(client: Any, name: str, version: Any, value: float, facts: Mapping[str, Any], mode: str) -> str:
    if math.isnan(value):
        return "its value is not a number"
    number = client.get_registered_model(name).aliases.get("champion")
    if number is None or str(number) == str(version.version):
        return ""
    champion = client.get_model_version(name, number)
    theirs, best = _facts(champion), _value(champion)
    other = sorted(fact for fact in {*facts, *theirs} if facts.get(fact) != theirs.get(fact))
    if other:
        listed = ", ".join(f"{fact} ({_brief(theirs.get(fact))} there, {_brief(facts.get(fact))} here)" for fact in other[:3])
        return f"not comparable with the champion, version {number}: another {listed}"
    return "" if math.isnan(best) or _is_better(value, best, mode) else _outdone(number, best)


def _outdone(number: Any, best: float) -> str:
    return f"the champion, version {number}, has {best:.4g}"


def _is_better(value: float, best: float, mode: str) -> bool:
    return value > best if mode == "max" else value < best


def _facts(version: Any) -> dict[str, Any]:
    """What the version's value depends on; nothing where its tags were made by others, or damaged."""
    try:
        facts = json.loads(whole(version.tags).get("gankd.comparable", "{}"))
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _value(version: Any) -> float:
    try:
        return float(version.tags.get("gankd.value", "nan"))
    except ValueError:
        return math.nan


def _brief(fact: Any) -> str:
    text = fact if isinstance(fact, str) else json.dumps(fact, sort_keys=True)
    return text if len(text) <= 40 else f"{text[:12]}..."
