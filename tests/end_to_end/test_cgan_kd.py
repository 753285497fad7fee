"""A whole sweep of cGAN-KD from the command line: what it prints, stores, tracks and registers, and what a second one reuses."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from PIL import Image

from gankd import models
from gankd.config import knobs
from gankd.registry import find_method
from gankd.sweep.figures import figure
from gankd.tracking.model_registry import load as fetch
from tests.conftest import Done
from tests.end_to_end.conftest import SWEEP, Here, SmokeSweep

METHOD = find_method("cgan_kd")
SHARED = ("teacher", "baseline", "feature_classifier", "real_statistics", "biggan", "extractor", "quality")


@pytest.fixture(scope="module")
def runs(smoke: SmokeSweep) -> dict[str, list[Any]]:
    """The MLflow runs of the sweep by kind: sweep, trial, stage."""
    from gankd.tracking.runs import mlflow_client

    client = mlflow_client(smoke.place.tracking)
    found = client.search_runs([client.get_experiment_by_name("cgan_kd/digits").experiment_id])
    kinds = {kind: [run for run in found if run.data.tags["gankd.kind"] == kind] for kind in ("sweep", "trial", "stage")}
    assert sum(map(len, kinds.values())) == len(found)
    return kinds


@pytest.fixture(scope="module")
def manifests(smoke: SmokeSweep) -> dict[str, dict[str, Any]]:
    """Key -> manifest of every artifact in the store."""
    files = (smoke.place.storage / "artifacts").glob("*/manifest.json")
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def best(smoke: SmokeSweep) -> dict[str, Any]:
    trials = sorted(smoke.place.trials(smoke.name), key=lambda trial: trial["started"])
    return max(trials, key=lambda trial: trial["metrics"]["student/val_accuracy"])


def test_it_prints_the_trials_the_scores_and_the_registered_models(smoke: SmokeSweep) -> None:
    out = smoke.done.stdout
    assert "first: student/val_accuracy on the validation part" in out
    assert re.search(rf"\* {best(smoke)['trial']}", out)
    for stage in ("teacher", "baseline", "control", "student"):
        assert re.search(rf"│ {stage} +│ accuracy +│ +\d+\.\d\d │ +\d+\.\d\d │", out), stage
    assert "gain: student over control, each the best of 2 trials by validation" in out
    for at, metric in (("preset", "val"), ("tuned", "val"), ("tuned", "test")):
        assert re.search(rf"│ {at} +│ {metric}_accuracy +│ +\d+\.\d\d │ +\d+\.\d\d │ +[+-]\d+\.\d\d │", out), (at, metric)
    assert "registered digits-generator version 1 (champion; quality/fid_classifier" in out
    assert "registered digits-student version 1 (champion; student/val_accuracy" in out
    assert "Configuration for experiment" not in out  # Tune's own display
    assert "Traceback" not in out + smoke.done.stderr


def test_both_trials_are_recorded_as_finished(smoke: SmokeSweep) -> None:
    trials = smoke.place.trials(smoke.name)
    assert [trial["status"] for trial in trials] == ["finished", "finished"]
    assert all({"student/val_accuracy", "control/val_accuracy"} <= trial["metrics"].keys() for trial in trials)
    assert trials[0]["knobs"] != trials[1]["knobs"]


def test_every_artifact_is_made_once_and_shared_stages_before_the_trials(smoke: SmokeSweep) -> None:
    ends = smoke.place.events(smoke.name, "stage_end")
    assert all(event["status"] == "finished" for event in ends)
    assert set(Counter(event["key"] for event in ends).values()) == {1}
    assert sorted(event["stage"] for event in ends if not event["trial"]) == sorted(SHARED)
    wanted = {key for trial in smoke.place.trials(smoke.name) for key in trial["keys"].values()}
    assert {event["key"] for event in ends if not event["stage"].startswith("test_")} == wanted


def test_the_trials_are_children_with_every_knob_as_a_param(smoke: SmokeSweep, runs: dict[str, list[Any]]) -> None:
    (parent,) = runs["sweep"]
    assert len(runs["trial"]) == 2
    for run in (parent, *runs["trial"]):
        assert run.info.status == "FINISHED"
        assert set(knobs(METHOD.config)) <= run.data.params.keys()
    for record in smoke.place.trials(smoke.name):
        (run,) = (run for run in runs["trial"] if run.data.tags["gankd.trial"] == record["trial"])
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert {knob: run.data.params[knob] for knob in record["knobs"]} == {k: str(v) for k, v in record["knobs"].items()}
        assert {name: run.data.metrics[name] for name in record["metrics"]} == record["metrics"]
        assert next(iter(run.data.metrics)) == METHOD.objective  # what the page of comparison shows before one chooses


def test_every_stage_has_one_run_and_its_trials_point_to_it(smoke: SmokeSweep, runs: dict[str, list[Any]]) -> None:
    by_key = {run.data.tags["gankd.key"]: run for run in runs["stage"]}
    assert len(by_key) == len(runs["stage"])
    for trial in runs["trial"]:
        for stage in METHOD.made_always():
            key = trial.data.tags[f"gankd.key.{stage.name}"]
            assert trial.data.tags[f"gankd.stage_run.{stage.name}"] == by_key[key].info.run_id
            assert by_key[key].info.run_name == f"{stage.name} {key.rpartition('-')[2][:8]}"
    for key, run in by_key.items():
        assert run.info.status == "FINISHED", key
    student = next(run for run in runs["stage"] if run.info.run_name.startswith("student"))
    assert {"student/loss", "student/val_accuracy"} <= student.data.metrics.keys()


def test_a_grid_of_samples_is_on_the_page_of_the_gan(smoke: SmokeSweep, runs: dict[str, list[Any]]) -> None:
    gan = next(run for run in runs["stage"] if run.info.run_name.startswith("biggan"))
    folder = smoke.place.folder / "mlruns" / gan.info.run_id / "artifacts" / "images"
    (picture,) = folder.glob("biggan~sample_grid+step+1+*.png")
    assert gan.data.tags["mlflow.loggedImages"] == "True"
    assert Image.open(picture).size[0] > 8 * 8


def test_only_the_chosen_trial_meets_the_test_part(
    smoke: SmokeSweep, runs: dict[str, list[Any]], manifests: dict[str, dict[str, Any]]
) -> None:
    tests = [manifest for manifest in manifests.values() if manifest["stage"].startswith("test_")]
    tested = {key for manifest in tests for key in manifest["inputs"].values()}
    # The chosen trial's, and the control that was best by validation, whichever trial it is of.
    trials = smoke.place.trials(smoke.name)
    control = max(trials, key=lambda trial: trial["metrics"]["control/val_accuracy"])
    chosen = {best(smoke)["keys"][stage] for stage in ("teacher", "baseline", "control", "student")}
    assert tested == chosen | {control["keys"]["control"]}
    for seen in (*(trial["metrics"] for trial in smoke.place.trials(smoke.name)), *(run.data.metrics for run in runs["trial"])):
        assert not [name for name in seen if "test" in name]


def test_the_registered_networks_are_those_of_the_chosen_trial(smoke: SmokeSweep) -> None:
    from gankd.tracking.runs import mlflow_client

    client = mlflow_client(smoke.place.tracking)
    for role in METHOD.registered:
        version = client.get_model_version_by_alias(f"digits-{role}", "champion")
        assert version.version in (1, "1")
        assert version.tags["gankd.key"] == best(smoke)["keys"][METHOD.roles[role]]
    facts = json.loads(client.get_model_version_by_alias("digits-generator", "champion").tags["gankd.comparable"])
    assert facts["metric"] == "fid_classifier"
    assert re.fullmatch(r"classifier@[0-9a-f]{8}", facts["extractor"])
    assert (facts["images"], facts["real images"], facts["classes"]) == (200, 300, list(range(10)))
    facts = json.loads(client.get_model_version_by_alias("digits-student", "champion").tags["gankd.comparable"])
    assert facts["network"]["name"] == "small_cnn"


def test_the_student_loads_without_our_code_and_without_pickle(smoke: SmokeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.chdir(smoke.place.folder)
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(smoke.place.tracking)
    mlflow.set_registry_uri(smoke.place.tracking)
    try:
        exported = mlflow.pytorch.load_model("models:/digits-student@champion")
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])
    ours = models.load(fetch(smoke.place.tracking, "digits-student@champion"))
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(exported(images), ours(images))


def test_sample_draws_a_grid(smoke: SmokeSweep) -> None:
    done = smoke.place.gankd("sample", "digits-generator@champion", "--out", "grid.png", "--per-class", "3")
    assert done.returncode == 0, done.stderr
    width, height = Image.open(smoke.place.folder / "grid.png").size
    assert height > 3 * width  # ten classes down, three images across


def test_export_writes_the_student_and_what_it_learned_from(smoke: SmokeSweep, here: Here) -> None:
    done = here(smoke.place, "export", "digits-student@champion", "--format", "torch-export", "--out", "student")
    assert done.returncode == 0, done.stderr
    assert "outputs within" in done.stdout
    card = (smoke.place.folder / "student" / "README.md").read_text()
    assert "| test |" in card
    samples = ("--stage", "samples", "--format", "hdf5", "--out", "fakes")
    done = here(smoke.place, "export", "digits-student@champion", *samples)
    assert done.returncode == 0, done.stderr
    with h5py.File(smoke.place.folder / "fakes" / "images.h5") as file:
        assert len(file["fake_images"]) == len(file["fake_labels"]) > 0


def test_evaluate_measures_what_the_sweep_recorded(smoke: SmokeSweep, runs: dict[str, list[Any]], here: Here) -> None:
    done = here(smoke.place, "evaluate", "digits-student@champion")
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ") for line in done.stdout.splitlines())
    recorded = runs["sweep"][0].data.metrics
    assert float(said["test_accuracy"]) == pytest.approx(recorded["test/student"], rel=1e-3)
    assert float(said["val_accuracy"]) == pytest.approx(recorded["val/student"], rel=1e-3)


def test_evaluate_measures_a_generator_as_the_sweep_did(smoke: SmokeSweep, here: Here) -> None:
    done = here(smoke.place, "evaluate", "digits-generator@champion")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(re.findall(r"│ (.+?)\[classifier@[0-9a-f]{8}\] +│ +(\S+) │", done.stdout))
    recorded = best(smoke)["metrics"]
    for title, metric in (
        ("FID", "fid"),
        ("KID", "kid"),
        ("precision", "precision"),
        ("intra-FID", "intra_fid"),
        ("KMMD", "kmmd"),
    ):
        assert float(rows[title]) == pytest.approx(recorded[f"quality/{metric}_classifier"], rel=2e-3, abs=1e-4), title
    assert "accuracy of the feature classifier" in done.stdout
    assert "fewer than 5 for each of 16 features" in done.stdout
    elsewhere = here(smoke.place, "evaluate", "digits-generator@champion", "--storage", "nowhere")
    assert elsewhere.returncode == 2
    assert "give the --storage of the sweep" in elsewhere.stderr


def test_the_generator_is_measured_on_the_way_and_at_its_end(
    smoke: SmokeSweep, runs: dict[str, list[Any]], manifests: dict[str, dict[str, Any]]
) -> None:
    ((key, gan),) = ((key, manifest) for key, manifest in manifests.items() if manifest["stage"] == "biggan")
    assert {"model.safetensors", "recipe.json"} == set(gan["files"])
    assert set(gan["metrics"]) == {"step", "parameters"}
    logged = [event for event in smoke.place.events(smoke.name, "metrics") if event.get("key") == key]
    measured = [event for event in logged if "biggan/fid_classifier" in event["values"]]
    assert [event["step"] for event in measured] == [10, 20]
    (quality,) = (key for key, manifest in manifests.items() if manifest["stage"] == "quality")
    told = json.loads((smoke.place.storage / "artifacts" / quality / "metrics.json").read_text())
    ((tag, report),) = told["by_extractor"].items()
    assert report["protocol"]["extractor"] == tag
    assert report["protocol"]["generated"]["images"] == 200
    assert sum(report["class_counts"]["generated"].values()) == 200
    assert sum(report["intra_fid"].values()) / 10 == pytest.approx(report["metrics"]["intra_fid_classifier"])


def test_compare_shows_the_method(smoke: SmokeSweep, runs: dict[str, list[Any]], here: Here) -> None:
    done = here(smoke.place, "compare", "--dataset", "digits")
    assert done.returncode == 0, done.stderr
    row, generator = (line for line in done.stdout.splitlines() if "cgan_kd" in line)
    metrics = runs["sweep"][0].data.metrics
    for value in (metrics["val/student"], metrics["test/student"], metrics["gain"]):
        assert figure(value) in row
    assert "FID" in done.stdout
    assert "[classifier]" in done.stdout
    assert figure(metrics["generator/fid_classifier"]) in generator
    missing = here(smoke.place, "compare", "--dataset", "nowhere")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: no finished sweep on data set 'nowhere'")


def test_the_store_lists_everything_and_would_delete_nothing(
    smoke: SmokeSweep, manifests: dict[str, dict[str, Any]], here: Here
) -> None:
    listed = here(smoke.place, "store", "ls")
    assert {line.split()[-1] for line in listed.stdout.splitlines()[:-1]} == set(manifests)
    assert not [line for line in listed.stdout.splitlines() if line.startswith("-")]
    dry = here(smoke.place, "store", "gc", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert not [key for key in manifests if key in dry.stdout]


@pytest.fixture(scope="module")
def again(smoke: SmokeSweep) -> Done:
    """The same command a second time, in the same folder."""
    return smoke.place.tune(*SWEEP, "--name", "second")


def test_the_same_command_again_trains_nothing(smoke: SmokeSweep, again: Done) -> None:
    assert again.returncode == 0, again.stdout + again.stderr
    assert not smoke.place.events("second", "stage_start")
    first, second = (
        {trial["trial"]: (trial["status"], trial["metrics"], trial["keys"]) for trial in smoke.place.trials(name)}
        for name in ("first", "second")
    )
    assert first == second


def test_the_same_command_again_registers_nothing_new(smoke: SmokeSweep, again: Done) -> None:
    from gankd.tracking.runs import mlflow_client

    client = mlflow_client(smoke.place.tracking)
    for role in METHOD.registered:
        assert f"already registered digits-{role} version 1 (champion" in again.stdout
        assert len(client.search_model_versions(f"name = 'digits-{role}'")) == 1


def test_a_name_that_is_taken_is_refused(smoke: SmokeSweep, here: Here) -> None:
    done = here(smoke.place, "tune", *SWEEP, "--name", "first")
    assert done.returncode == 2
    assert done.stderr == "error: a sweep named 'first' exists; choose another --name, or go on with --resume first\n"
    assert Path(smoke.place.storage / "sweeps" / "first").is_dir()
