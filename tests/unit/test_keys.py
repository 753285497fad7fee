"""What an artifact's key depends on, and which stages a sweep shares."""

from typing import Any

from gankd.config import build_config, with_knobs
from gankd.naming import stage_keys
from gankd.registry import find_method

METHOD = find_method("cgan_kd")
STAGES = [stage.name for stage in METHOD.stages]


def keys(changes: dict[str, Any] | None = None, fingerprint: str = "data", salt: str = "") -> dict[str, str]:
    return stage_keys(METHOD, build_config(METHOD.config, with_knobs({}, changes or {})), fingerprint, salt)


def changed(changes: dict[str, Any]) -> set[str]:
    before, after = keys(), keys(changes)
    return {stage for stage in STAGES if before[stage] != after[stage]}


def test_a_knob_changes_its_stage_and_all_that_need_it_and_nothing_else() -> None:
    assert changed({"samples.filter_quantile": 0.5}) == {"samples", "student"}
    assert changed({"density_ratio.lam": 1.0}) == {"density_ratio", "samples", "student"}
    assert changed({"student.lr": 0.5}) == {"student", "control"}
    assert changed({"biggan.width": 32}) == {"biggan", "quality", "density_ratio", "samples", "student"}


def test_the_control_does_not_know_of_fakes() -> None:
    assert changed({"student.fakes": 5, "student.real_per_fake": 2.0}) == {"student"}


def test_seed_data_and_salt_change_everything() -> None:
    for other in (keys({"seed": 1}), keys(fingerprint="other"), keys(salt="alone")):
        assert not set(other.values()) & set(keys().values())


def test_how_the_data_was_named_changes_nothing() -> None:
    assert changed({"data.name": "hdf5", "data.path": "somewhere.h5"}) == set()


def test_the_shared_stages_are_what_no_searched_knob_touches() -> None:
    def shared(*knobs: str) -> list[str]:
        return [stage.name for stage in METHOD.shared(knobs)]

    assert shared("samples.filter_quantile") == [
        "teacher",
        "baseline",
        "feature_classifier",
        "real_statistics",
        "biggan",
        "extractor",
        "quality",
        "density_ratio",
        "control",
    ]
    assert shared("density_ratio.lam", "student.lr") == [
        "teacher",
        "baseline",
        "feature_classifier",
        "real_statistics",
        "biggan",
        "extractor",
        "quality",
    ]
    assert changed({"quality.images": 50, "quality.neighbours": 5}) == {"quality"}
    assert shared("student.fakes") == [stage for stage in STAGES if stage != "student"]
    assert shared("seed") == shared("data.train_images") == []
