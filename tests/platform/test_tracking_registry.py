"""The registry on a real SQLite store: versions, champions, and networks that load without unpickling."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gankd.errors import UserError
from gankd.tracking.model_registry import export, load, register
from gankd.tracking.runs import Runs
from gankd.tracking.sweeps import finished_sweeps


class Student(nn.Module):
    """(N, 1, 8, 8) -> (N, 10), with the layers that behave differently in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.conv(images))).mean((2, 3))))


class Generator(nn.Module):
    """(N, 6) float and (N,) int64 -> (N, 1, 8, 8) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.first, self.norm = nn.Embedding(10, 3), nn.Linear(9, 64), nn.BatchNorm1d(64)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        hidden = self.norm(self.first(torch.cat([z, self.shared(labels)], 1)))
        return torch.tanh(hidden.view(z.shape[0], 1, 8, 8))


STUDENT = (torch.zeros(2, 1, 8, 8),)
GENERATOR = (torch.zeros(2, 6), torch.zeros(2, dtype=torch.int64))


@dataclass
class Store:
    uri: str
    runs: Runs
    folder: Path

    def register(self, key: str, value: float, data: str = "digits-1", mode: str = "max", **facts: Any) -> Any:
        network = Student()
        folder = self.folder / key
        folder.mkdir(exist_ok=True)
        save_file(network.state_dict(), folder / "model.safetensors")
        (folder / "recipe.json").write_text(json.dumps({"name": "tiny", "key": key}))
        return register(
            self.uri, "digits-student", lambda: (network, STUDENT), lambda: folder, key=key, metrics={"val/acc": value},
            metric="val/acc", mode=mode, facts={"metric": "acc", "data": data, **facts}, run_id=self.runs.trial_run("t0"),
            shown_by=[self.runs.sweep_run({})], tags={"gankd.method": "rgal"},
        )  # fmt: skip

    def alias(self, alias: str) -> str | None:
        found = self.runs.client.get_registered_model("digits-student").aliases.get(alias)
        return None if found is None else str(found)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    return Store(uri, Runs.open(uri, "rgal/digits", folder / "artifacts", "s1"), folder)


@pytest.fixture
def store(opened: Store) -> Iterator[Store]:
    yield opened
    for model in opened.runs.client.search_registered_models():
        opened.runs.client.delete_registered_model(model.name)


def test_the_champion_changes_only_for_a_better_one_on_the_same_data(store: Store) -> None:
    first = store.register("a", 0.8)
    assert (first.version, first.alias, first.new) == ("1", "champion", True)
    assert store.register("b", 0.7).alias == "challenger"
    assert store.register("c", 0.8).alias == "challenger"  # as good is not better
    assert store.register("d", 0.9, data="other").alias == "challenger"
    assert store.register("e", float("nan")).alias == "challenger"
    assert (store.alias("champion"), store.alias("challenger")) == ("1", "5")
    assert store.register("f", 0.9).alias == "champion"
    assert (store.alias("champion"), store.alias("challenger")) == ("6", "5")


def test_files_that_are_gone_are_a_sentence(store: Store) -> None:
    store.register("gone", 0.8)
    for folder in store.folder.glob("artifacts/**/network"):
        shutil.rmtree(folder)
    with pytest.raises(UserError, match="the files of digits-student/1 cannot be fetched from"):
        load(store.uri, "digits-student")


@pytest.mark.parametrize(
    ("facts", "differs"),
    [
        ({"extractor": "classifier@2"}, "extractor (classifier@1 there, classifier@2 here)"),
        ({"images": 500}, "images (2000 there, 500 here)"),
        ({"network": {"name": "resnet20"}}, "network (null there"),
        ({"data": "digits-2"}, "data (digits-1 there, digits-2 here)"),
    ],
)
def test_a_number_that_depends_on_something_else_never_takes_the_champions_place(
    store: Store, facts: dict[str, Any], differs: str
) -> None:
    known = {"extractor": "classifier@1", "images": 2000}
    store.register("a", 2.0, mode="min", **known)
    other = store.register("b", 1.0, mode="min", **{**known, **facts})
    assert (other.alias, store.alias("champion")) == ("challenger", "1")
    assert differs in other.reason
    assert store.runs.client.get_model_version("digits-student", "2").tags["gankd.why_challenger"] == other.reason


def test_equal_facts_meet_whatever_stage_has_measured(store: Store) -> None:
    """`ft/fid` and `quality/fid` by one extractor are one metric: the facts hold no stage."""
    store.register("a", 2.0, mode="min", extractor="classifier@1")
    better = store.register("b", 1.0, mode="min", extractor="classifier@1")
    assert (better.alias, better.reason) == ("champion", "")
    worse = store.register("c", 1.5, mode="min", extractor="classifier@1")
    assert worse.reason == "the champion, version 2, has 1"


def test_less_is_better_where_the_mode_says_so(store: Store) -> None:
    store.register("a", 2.0, mode="min")
    assert store.register("b", 3.0, mode="min").alias == "challenger"
    assert store.register("c", 1.0, mode="min").alias == "champion"


def test_the_same_artifact_is_registered_once(store: Store) -> None:
    store.register("a", 0.8)
    again = store.register("a", 0.8)
    assert (again.version, again.alias, again.new) == ("1", "champion", False)
    assert len(store.runs.client.search_model_versions("name = 'digits-student'")) == 1


def test_a_champion_that_was_challenger_is_no_longer_one(store: Store) -> None:
    store.register("a", 0.8)
    store.register("b", 0.7)
    store.runs.client.delete_registered_model_alias("digits-student", "champion")
    store.register("b", 0.7)
    assert (store.alias("champion"), store.alias("challenger")) == ("2", None)


def test_a_version_tells_where_it_comes_from(store: Store) -> None:
    store.register("a", 0.8)
    version = store.runs.client.get_model_version("digits-student", "1")
    assert version.run_id == store.runs.trial_run("t0")
    assert version.tags == {
        "gankd.key": "a", "gankd.value": "0.8", "gankd.mode": "max", "gankd.data": "digits-1", "gankd.why_challenger": "",
        "gankd.comparable": '{"data": "digits-1", "metric": "acc"}', "gankd.method": "rgal", "val/acc": "0.8",
    }  # fmt: skip
    outputs = store.runs.client.get_run(version.run_id).outputs.model_outputs
    assert any(output.model_id in version.source for output in outputs)


def test_the_sweep_shows_its_models_once(store: Store) -> None:
    def shown() -> list[str]:
        return [output.model_id for output in store.runs.client.get_run(store.runs.sweep_run({})).outputs.model_outputs]

    before = shown()
    for _ in range(2):
        store.register("a", 0.8)
    (new,) = set(shown()) - set(before)
    assert len(shown()) == len(before) + 1
    assert new in store.runs.client.get_model_version("digits-student", "1").source
    logged = store.runs.client.get_logged_model(new)
    assert logged.source_run_id == store.runs.sweep_run({})
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "digits-student", "version": 1}]


def test_load_gives_the_recipe_and_the_weights(store: Store) -> None:
    store.register("a", 0.8)
    store.register("b", 0.7)
    wanted = {"digits-student@champion": "a", "models:/digits-student@challenger": "b", "digits-student/2": "b"}
    for model, key in {**wanted, "digits-student": "a"}.items():
        folder = load(store.uri, model)
        assert json.loads((folder / "recipe.json").read_text())["key"] == key
        written = load_file(store.folder / key / "model.safetensors")
        assert all(torch.equal(value, written[name]) for name, value in load_file(folder / "model.safetensors").items())


def test_what_is_not_registered_is_said_with_what_is(store: Store) -> None:
    with pytest.raises(UserError, match=r"no model 'cifar-student'.*none yet"):
        load(store.uri, "cifar-student")
    store.register("a", 0.8)
    with pytest.raises(UserError, match=r"no model 'cifar-student'.*digits-student"):
        load(store.uri, "cifar-student@champion")
    with pytest.raises(UserError, match=r"has no 'best'; it has digits-student@champion, digits-student/1"):
        load(store.uri, "digits-student@best")
    with pytest.raises(UserError, match=r"has no '7'"):
        load(store.uri, "models:/digits-student/7")


READER = """
import sys, mlflow.pytorch, torch
from safetensors.torch import load_file, save_file
folder = sys.argv[1]
outputs, models = {}, {name: mlflow.pytorch.load_model(f"{folder}/{name}") for name in ("Student", "Generator")}
inputs = {}
for name, value in sorted(load_file(f"{folder}/inputs.safetensors").items()):
    inputs.setdefault(name.rpartition("/")[0], []).append(value)
with torch.no_grad():
    outputs = {name: models[name.partition("/")[0]](*values).contiguous() for name, values in inputs.items()}
save_file(outputs, f"{folder}/outputs.safetensors")
"""


def test_an_export_loads_without_unpickling_and_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs, outputs = {}, {}
    for network, example in ((Student(), STUDENT), (Generator(), GENERATOR)):
        name = type(network).__name__
        network.norm.running_mean.normal_()  # statistics that eval mode must use
        network.norm.running_var.uniform_(0.5, 2)
        export(network.train(), example, tmp_path / name)
        assert network.training  # the caller's network is as it was
        network.eval()
        for batch in (1, 2, 5, 64):
            images = torch.randn(batch, *example[0].shape[1:])
            values = [images, torch.arange(batch) % 10][: len(example)]
            inputs |= {f"{name}/{batch}/{i}": value for i, value in enumerate(values)}
            outputs[f"{name}/{batch}"] = network(*values).detach()
    save_file(inputs, tmp_path / "inputs.safetensors")
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}  # a process that lacks our classes
    subprocess.run([sys.executable, "-c", READER, str(tmp_path)], check=True, env=environment, cwd=tmp_path)
    got = load_file(tmp_path / "outputs.safetensors")
    assert set(got) == set(outputs)
    assert all(torch.equal(got[name], output) for name, output in outputs.items())


def test_a_registered_network_loads_by_its_alias(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    store.register("a", 0.8)
    assert mlflow.pytorch.load_model("models:/digits-student@champion")(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_the_finished_sweeps_of_a_data_set_are_told_with_what_their_numbers_depend_on(store: Store) -> None:
    def sweep(name: str, method: str, status: str = "FINISHED", dataset: str = "cifar") -> None:
        runs = Runs(store.runs.client, store.runs.experiment_id, name)
        facts = json.dumps({"metric": "val_accuracy", "data": "c-1"})
        tags = {"gankd.method": method, "gankd.dataset": dataset, "gankd.metric": "student/val_accuracy"}
        run = runs.sweep_run(tags | {"gankd.comparable.student": facts})
        runs.rows.figures(run, {"objective": 90.0, "val/student": 90.0}, 1)
        runs.rows.flush()
        runs.end(run, status, 2)

    sweep("one", "rgal")
    sweep("two", "cgan_kd")
    sweep("three", "rgal", status="KILLED")
    sweep("four", "rgal", dataset="svhn")
    sweeps = {sweep.name: sweep for sweep in finished_sweeps(store.uri, "cifar")}
    assert sweeps.keys() == {"one", "two"}
    assert (sweeps["two"].method, sweeps["two"].objective) == ("cgan_kd", "student/val_accuracy")
    assert sweeps["two"].metrics == {"objective": 90.0, "val/student": 90.0}
    assert sweeps["two"].facts == {"student": {"metric": "val_accuracy", "data": "c-1"}}
    assert finished_sweeps(store.uri, "mnist") == []
