"""What an artifact's key depends on, and which stages a sweep shares."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

import gankd.naming
from gankd.code import Code
from gankd.config import Selection, build_config, knobs, with_knobs
from gankd.method import Method
from gankd.naming import name_artifacts, stage_keys
from gankd.registry import find_method, method_names
from gankd.stages.sections import ClassifierConfig

METHOD = find_method("cgan_kd")
STAGES = [stage.name for stage in METHOD.made_always()]


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


OURS = [
    "cgan_kd", "cgan_kd_regression", "cgan_transfer", "five_teachers", "kd_dlgan", "rgal", "rgal_incremental",
    "rgal_quantization", "squeeze_span",
]  # fmt: skip
TABLES = Path(__file__).parents[1] / "fixtures" / "knobs"


def another(value: Any, annotation: Any) -> Any:
    """A value that differs: of those that a knob lists another one, else one of the same type, allowed or not."""
    listed = [choice for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal for choice in get_args(part)]
    if (value is None or isinstance(value, str)) and (others := [choice for choice in listed if choice != value]):
        return others[0]
    plain = next((kind for kind in (bool, int, float) if kind in get_args(annotation)), None)
    if value is None and plain:
        return plain(1)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    return () if value else (1,)


def with_another(config: Any, knob: str) -> Any:
    section, _, name = knob.rpartition(".")
    if not section:
        return config.model_copy(update={name: changed_knob(config, name)})
    inner = getattr(config, section)
    return config.model_copy(update={section: inner.model_copy(update={name: changed_knob(inner, name)})})


def changed_knob(section: Any, name: str) -> Any:
    return another(getattr(section, name), type(section).model_fields[name].annotation)


def knob_table(method: Method) -> str:
    """`knob: stages whose artifacts change with it`, a line for each knob, test stages left out."""
    config, lines = method.config(), []
    before = stage_keys(method, config, "data")
    for knob, info in knobs(method.config).items():
        if knob.startswith("data.") or (info.json_schema_extra or {}).get("unit") == "path":
            continue  # by the data's fingerprint, by the file's content
        after = stage_keys(method, with_another(config, knob), "data")
        changed = [stage.name for stage in method.stages if not stage.test and before[stage.name] != after[stage.name]]
        lines.append(f"{knob}: {' '.join(changed)}")
    return "\n".join(lines) + "\n"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", OURS)
def test_what_a_knob_makes_anew_is_as_the_table_says(name: str) -> None:
    """A wrong dependency shows in the table's diff. `python -m tests.unit.test_keys` writes the tables anew."""
    assert knob_table(find_method(name)) == (TABLES / f"{name}.txt").read_text()


def test_every_method_of_ours_has_a_table() -> None:
    assert {file.stem for file in TABLES.glob("*.txt")} == set(method_names()) == set(OURS)


def test_a_selection_has_the_named_knobs_and_no_other() -> None:
    selection = Selection(ClassifierConfig(), {"lr", "epochs"}, "teacher")
    assert selection.lr == ClassifierConfig().lr
    with pytest.raises(AttributeError, match=r"does not read teacher\.batch"):
        _ = selection.batch
    assert selection == Selection(ClassifierConfig(batch=7), {"lr", "epochs"}, "teacher")


def test_edited_code_changes_the_key_and_not_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = name_artifacts(METHOD, METHOD.config(), "data")
    real = gankd.naming.code_of

    def edited(function: str, networks: Any) -> Code:
        code = real(function, networks)
        return Code("edited", code.platform) if function.endswith(":make_samples") else code

    monkeypatch.setattr(gankd.naming, "code_of", edited)
    after = name_artifacts(METHOD, METHOD.config(), "data")
    assert {stage for stage in STAGES if before.keys[stage] != after.keys[stage]} == {"samples", "student"}
    assert before.recipes == after.recipes


def test_with_reuse_stale_an_artifact_of_other_code_serves() -> None:
    names = name_artifacts(METHOD, METHOD.config(), "data")

    class Shelf:
        def has(self, key: str) -> bool:
            return False

        def of_recipe(self, recipe: str) -> list[str]:
            return ["samples-older", "samples-old"] if recipe == names.recipes["samples"] else []

    stale = name_artifacts(METHOD, METHOD.config(), "data", stale=Shelf())
    assert stale.keys["samples"] == "samples-old"
    assert stale.keys["student"] != names.keys["student"]
    assert stale.keys["biggan"] == names.keys["biggan"]


def test_a_repetition_makes_all_anew_but_what_measures() -> None:
    first, second = (name_artifacts(METHOD, METHOD.config(), "data", repetition=r) for r in (0, 1))
    same = {stage for stage in STAGES if first.keys[stage] == second.keys[stage]}
    assert same == {"feature_classifier", "real_statistics"}
    assert (second.seeds["student"], second.seeds["feature_classifier"]) == (1, 0)


if __name__ == "__main__":
    for each in method_names():
        (TABLES / f"{each}.txt").write_text(knob_table(find_method(each)))
