"""The loop over tasks: what it leaves alone, that its ways differ where they should, and that it can be stopped anywhere."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gankd import models
from gankd.config import build_config, preset_names, read_preset, with_knobs
from gankd.data import DataSet, load
from gankd.engine import train
from gankd.registry import find_method
from gankd.sweep.space import check_space, load_space
from gankd.sweep.table import load_table, table_names
from methods.rgal_incremental.config import IncrementalConfig
from methods.rgal_incremental.loop import RealImages, TaskLoop
from methods.rgal_incremental.replay import Replay
from methods.rgal_incremental.stages import test_tasks as measure_on_test
from methods.rgal_incremental.stages import train_first, train_student
from tests.methods.rgal_fixtures import context

METHOD = find_method("rgal_incremental")
TWO_LISTS = {"student.tasks": [["7", "1", "3"], ["9", "0"], ["2", "4", "5", "6", "8"]], "student.task_steps": 6}


def smoke(**knobs: Any) -> IncrementalConfig:
    return build_config(IncrementalConfig, with_knobs(read_preset(METHOD.presets, "smoke"), knobs))


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load(smoke().data)


def first_of(classes: int) -> Any:
    torch.manual_seed(0)
    return models.build("small_cnn", classes=classes, image_channels=1, image_size=8, width=4).eval().requires_grad_(False)


def loop(folder: Path, data: DataSet, kind: str, knobs: dict[str, Any]) -> Any:
    cfg = smoke(**knobs)
    ctx = context(folder, kind)
    first = first_of(2 if isinstance(cfg.student.tasks, int) else len(cfg.student.tasks[0]))
    if kind in ("finetuning", "joint"):
        return RealImages(ctx, cfg.student, data, first, joint=kind == "joint")
    making = cfg.synthesis if kind == "student" else cfg.synthesis.model_copy(update={"triplet": 0.0})
    return Replay(ctx, cfg.student, data, first, making, relate=kind == "student")


def steps(training: TaskLoop, until: int, start: int = 0) -> None:
    """The engine's loop without its checkpoints."""
    for step in range(start, until):
        training.ctx.seed_layers(step)
        training.step(step, training.ctx.rng(step))
        if training.due(step + 1):
            training.evaluate(step + 1)


def states(training: TaskLoop) -> list[dict[str, torch.Tensor]]:
    return [*training.networks, training.network.state_dict()]


OTHER_HOST = {
    **{"student.host": "rdfcil", "student.head_steps": 3},
    **{"synthesis.cr": 0.5, "synthesis.bank": 30, "synthesis.generator": "warm"},
}


@pytest.mark.parametrize(("setting", "stops"), [({}, (1, 8, 15)), (OTHER_HOST, (5, 14, 15))], ids=["abd", "rdfcil"])
def test_a_resumed_run_is_bitwise_the_undisturbed_one(
    tmp_path: Path, data: DataSet, setting: dict[str, Any], stops: tuple[int, ...]
) -> None:
    """Of 42 steps task 2 has the first 14: 3 of synthesis, 4 of training, and again. Stopped in its first and second
    synthesis, in training, at its end, and in synthesis of task 3."""
    knobs = {"student.tasks": [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7", "8", "9"]], **setting}
    undisturbed = loop(tmp_path / "a", data, "student", knobs)
    metrics = train(undisturbed.ctx, undisturbed, steps=undisturbed.steps, batch=20)
    stopped = loop(tmp_path / "b", data, "student", knobs)
    done = 0
    for stop in stops:
        steps(stopped, stop, start=done)
        done = stop
        torch.save({"algorithm": stopped.state_dict(), "step": stop, "evaluation": {}}, tmp_path / "state.pt")
        resumed = loop(tmp_path / f"c{stop}", data, "student", knobs)
        resumed.ctx.resume = lambda: torch.load(tmp_path / "state.pt", weights_only=True)
        assert train(resumed.ctx, resumed, steps=resumed.steps, batch=20) == metrics
        assert resumed.matrix == undisturbed.matrix
        for one, other in zip(states(undisturbed), states(resumed), strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_old_network_and_in_synthesis_the_new_one_are_left_alone(tmp_path: Path, data: DataSet) -> None:
    training = loop(tmp_path, data, "student", {})
    first = first_of(2).state_dict()
    steps(training, 3)
    begun = training.network.state_dict()
    assert all(torch.equal(value, begun[name]) for name, value in first.items() if "linear" not in name)
    assert all(p.grad is None for network in (training.old, training.network) for p in network.parameters())
    steps(training, 14, start=3)
    assert all(torch.equal(value, training.old.state_dict()[name]) for name, value in first.items())
    moved = training.network.state_dict()
    assert any(not torch.equal(value, moved[name]) for name, value in first.items() if "linear" not in name)
    assert (len(training.pool), training.pool.labels.max()) == (30, 1)
    after_task_2 = {name: value.clone() for name, value in training.network.state_dict().items()}
    steps(training, 15, start=14)
    assert all(torch.equal(value, training.old.state_dict()[name]) for name, value in after_task_2.items())
    assert (training.classes, training.old_classes, len(training.pool)) == (6, 4, 0)


def test_all_ways_begin_with_the_same_network_and_take_as_many_training_steps(tmp_path: Path, data: DataSet) -> None:
    ways = [loop(tmp_path / kind, data, kind, {}) for kind in ("finetuning", "joint", "host", "student")]
    weights = [training.network.state_dict() for training in ways]
    assert all(torch.equal(weights[0][name], other[name]) for other in weights[1:] for name in other)
    assert [training.clock(training.steps) for training in ways] == [32] * 4
    assert set(ways[0].images.labels.tolist()) == {2, 3}
    assert set(ways[1].images.labels.tolist()) == {0, 1, 2, 3}
    terms = {way.ctx.stage: set(way.step(3, way.ctx.rng(3))) for way in ways[2:] if steps(way, 3) is None}
    assert terms["student"] - terms["host"] == {"loss_striplet", "loss_cd"}


def test_it_is_looked_at_in_a_task_and_at_its_end_in_training_steps(tmp_path: Path, data: DataSet) -> None:
    """Twenty times in all, after every second of 20 steps, but at the end of a task in any case."""
    training = loop(tmp_path, data, "student", {**TWO_LISTS, "student.task_steps": 21, "student.refresh": 10})
    reported: list[int] = []
    training.ctx.report = lambda metrics, step: reported.append(step)
    train(training.ctx, training, steps=training.steps, batch=20)
    assert reported == [*range(2, 21, 2), 21, *range(23, 42, 2), 42]
    assert [len(row) for row in training.matrix] == [1, 2, 3]


def test_at_a_tasks_end_only_the_last_layer_is_trained(tmp_path: Path, data: DataSet) -> None:
    training = loop(tmp_path, data, "host", {"student.host": "rdfcil", "student.head_steps": 3})
    steps(training, 11)  # of the 14 steps of the task
    before = {name: value.clone() for name, value in training.network.state_dict().items()}
    steps(training, 14, start=11)
    after = training.network.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"linear.weight", "linear.bias"}


def test_the_artifact_answers_in_the_datas_order_and_is_tested_task_by_task(tmp_path: Path, data: DataSet) -> None:
    from gankd.config import Selection
    from gankd.store.artifact import Artifact

    cfg = smoke(**TWO_LISTS)
    contexts = {name: context(tmp_path / name, name) for name in ("first", "student", "test_student")}
    train_first(contexts["first"], cfg.first, data, Selection(cfg.student, {"tasks"}, "student"))
    first = Artifact("first-key", "first", contexts["first"].out, {})
    assert json.loads((first.path / "classes.json").read_text()) == [7, 1, 3]
    metrics = train_student(contexts["student"], cfg.student, data, cfg.synthesis, first)
    made = Artifact("student-key", "student", contexts["student"].out, {})
    assert json.loads((made.path / "after_task_2" / "classes.json").read_text()) == [7, 1, 3, 9, 0]
    network, images = models.load(made.path), torch.from_numpy(np.array(data.val.images)).float() / 127.5 - 1
    right = network(images).argmax(1).numpy() == data.val.labels
    assert metrics["val_accuracy"] == pytest.approx(100 * right.mean())
    tasks = [[1, 3, 7], [0, 9], [2, 4, 5, 6, 8]]
    by_task = [100 * right[np.isin(data.val.labels, task)].mean() for task in tasks]
    np.testing.assert_allclose(np.load(made.path / "accuracies.npy")[2], by_task)
    # With the validation part in the place of the test part it finds what training has found.
    from dataclasses import replace

    found = measure_on_test(contexts["test_student"], cfg.student, replace(data, test_part=data.val), first, student=made)
    assert found == pytest.approx({name.replace("val_", "test_"): metrics[name] for name in metrics if name != "parameters"})
    assert contexts["test_student"].basis == contexts["student"].basis
    assert contexts["student"].basis[""]["tasks"] == tasks


KILLED = """
import os, random, signal, sys, time
from pathlib import Path

import torch._dynamo
import gankd.stages.classifier, methods.rgal_incremental.stages  # once, for all that is forked
from gankd.config import build_config, read_preset, with_knobs
from gankd.pipeline import Job, run
from gankd.registry import find_method

folder, moments = Path(sys.argv[1]), [int(moment) for moment in sys.argv[2:]]
method = find_method("rgal_incremental")
tree = with_knobs(read_preset(method.presets, "smoke"), {"student.refresh": 3})
config = build_config(method.config, tree).model_dump(mode="json")

def started(storage):
    child = os.fork()
    if child == 0:
        run(Job(method.name, config, str(folder / storage), stages=("first", "student"), threads=1, checkpoint_seconds=0))
        os._exit(0)
    return child

def reached():
    return max((int(file.name.split("-")[0]) for file in folder.glob("killed/checkpoints/student-*/*.ckpt")), default=0)

assert os.waitpid(started("undisturbed"), 0)[1] == 0
for moment in moments:
    child = started("killed")
    while reached() < moment:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and moment <= reached() < 68, (moment, reached(), status)
assert os.waitpid(started("killed"), 0)[1] == 0
"""


def test_killed_at_five_random_moments_it_is_bitwise_the_undisturbed_run(tmp_path: Path) -> None:
    """A checkpoint follows each step but the last; a task has 17: three times 3 of synthesis, and 8 of training."""
    moments = sorted(random.Random(0).sample(range(2, 66), 5))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), *map(str, moments)], check=True, env=environment, timeout=300)
    digests = []
    for storage in ("undisturbed", "killed"):
        (manifest,) = tmp_path.glob(f"{storage}/artifacts/student-*/manifest.json")
        made = json.loads(manifest.read_text())
        digests.append((made["metrics"], {name: file["sha256"] for name, file in made["files"].items()}))
    assert digests[0] == digests[1]
    assert {"model.safetensors", "accuracies.npy", "after_task_2/model.safetensors"} <= digests[0][1].keys()


def preset(name: str) -> IncrementalConfig:
    return build_config(IncrementalConfig, read_preset(METHOD.presets, name))


def test_the_space_holds_the_presets_and_leaves_the_first_task_and_the_bounds_alone() -> None:
    for name in preset_names(METHOD.presets):
        space = load_space(METHOD, None, preset(name))
        check_space(space, METHOD, preset(name).model_dump(mode="json"))
        assert {stage.name for stage in METHOD.shared(space.samplers)} == {"first", "finetuning", "joint"}
    assert [stage.name for stage in METHOD.shared(["synthesis.triplet", "synthesis.low", "student.striplet"])][-1] == "host"


@pytest.mark.parametrize("name", table_names(METHOD))
def test_the_tables_can_be_read(name: str) -> None:
    assert load_table(METHOD, name).rows
