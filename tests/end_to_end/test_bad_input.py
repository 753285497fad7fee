"""What the user gets wrong costs one sentence and exit code 2 before anything trains; what fails while training costs a trial.

Most commands run in this process, for speed: `main` is what the commands call. A few run as a user runs them.
"""

from __future__ import annotations

import pickle
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import gankd.sweep.experiment
import gankd.sweep.launch
import gankd.sweep.nodes
from gankd.config import build_config, read_preset, with_knobs
from gankd.errors import StageFailed
from gankd.pipeline import Job, run
from gankd.registry import find_method
from gankd.store import Store
from tests.conftest import ROOT, Workplace
from tests.end_to_end.conftest import Refused, never

SWEEP = ("tune", "--method", "cgan_kd", "--preset", "smoke")
TUNE = "from ray import tune\n"
RUN_EXPERIMENT = gankd.sweep.experiment.run_experiment


# Names and flags.


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("tune",), ("--method",)),
        (("tune", "--method", "cgan_dk"), ("'cgan_dk'", "did you mean 'cgan_kd'")),
        (("tune", "--method", "cgan_kd", "--preset", "smoek"), ("'smoek'", "did you mean 'smoke'", "digits")),
        (("tune", "--method", "cgan_kd", "--preset", "gone.yaml"), ("gone.yaml", "YAML")),
        ((*SWEEP, "--trails", "2"), ("--trails", "--trials")),
        ((*SWEEP, "--trials", "0"), ("--trials", "0", "greater than or equal to 1")),
        ((*SWEEP, "--trials", "many"), ("--trials", "'many'", "integer")),
        ((*SWEEP, "--workers", "0"), ("--workers", "0", "greater than or equal to 1")),
        ((*SWEEP, "--workers", "-1"), ("--workers", "-1", "greater than or equal to 1")),
        ((*SWEEP, "--shared-workers", "0"), ("--shared-workers", "0", "greater than or equal to 1")),
        ((*SWEEP, "--cpus-per-worker", "0"), ("--cpus-per-worker", "0", "greater than 0")),
        ((*SWEEP, "--gpus-per-worker", "-1"), ("--gpus-per-worker", "-1", "greater than or equal to 0")),
        ((*SWEEP, "--gpus-per-worker", "1.5"), ("--gpus-per-worker", "1.5", "a part of one, such as 0.25, or a whole number")),
        ((*SWEEP, "--cpus-per-worker", "0.00001"), ("--cpus-per-worker", "1e-05", "0.0001 is the least")),
        ((*SWEEP, "--gpus-per-worker", "0.5", "--workers", "2"), ("--gpus-per-worker", "0.5", "2 workers", "a GPU each")),
        ((*SWEEP, "--gpus-per-worker", "0.5", "--shared-workers", "2"), ("--shared-gpus-per-worker", "2 workers", "a GPU each")),
        ((*SWEEP, "--shared-cpus-per-worker", "0"), ("--shared-cpus-per-worker", "0", "greater than 0")),
        ((*SWEEP, "--shared-gpus-per-worker", "many"), ("--shared-gpus-per-worker", "'many'")),
        ((*SWEEP, "--pool", "big nodes"), ("--pool", "'big nodes'", "letters, digits")),
        ((*SWEEP, "--shared-pool", "GPU"), ("--shared-pool", "'GPU'", "none of Ray's own")),
        ((*SWEEP, "--checkpoint-seconds", "-1"), ("--checkpoint-seconds", "-1", "greater than or equal to 0")),
        ((*SWEEP, "--checkpoint-seconds", "nan"), ("--checkpoint-seconds", "nan", "finite")),
        ((*SWEEP, "--scheduler", "hyper"), ("--scheduler", "'hyper'", "'asha'", "'fifo'")),
        ((*SWEEP, "--workers", "3"), ("teacher.batch", "50", "--shared-workers 3", "multiple of 3")),
        ((*SWEEP, "--workers", "2", "--set", "student.batch=25"), ("student.batch", "25", "--workers 2", "multiple of 2")),
        ((*SWEEP, "--name", "../x"), ("'../x'", "letters")),
        ((*SWEEP, "--name", "it's"), ('"it\'s"', "letters")),
        (("tune", "--resume", "gone"), ("'gone'", "there is none yet")),
        (("tune", "--resume", "../x"), ("'../x'", "letters")),
        (("show", "nope"), ("'nope'", "cgan_kd")),
        (("sing",), ("'sing'",)),
    ],
)
def test_names_and_flags(refused: Refused, arguments: tuple[str, ...], names: tuple[str, ...]) -> None:
    refused(*arguments, names=names)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("compare", "--dataset", "digit"), ("'digit'", "did you mean 'digits'", "no finished sweep")),
        (("sample", "nope"), ("'nope'", "none yet")),
        (("evaluate", "nope@champion"), ("'nope'", "none yet")),
    ],
)
def test_names_of_what_was_never_made(
    refused: Refused, tmp_path: Path, empty_store: Path, arguments: tuple[str, ...], names: tuple[str, ...]
) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    refused(*arguments, names=names)


@pytest.mark.parametrize(
    ("assignment", "names"),
    [
        ("student.lrr=1", ("'student.lrr'", "did you mean 'student.lr'")),
        ("studnet.lr=1", ("'studnet", "did you mean 'student")),
        ("student.lr=-1", ("'student.lr'", "-1", "greater than 0")),
        ("student.lr=fast", ("'student.lr'", "'fast'", "number")),
        ("student.lr=nan", ("'student.lr'", "nan", "finite")),
        ("student.steps=2.5", ("'student.steps'", "2.5", "integer")),
        ("student.kd=crt", ("'student.kd'", "'crt'", "'crd'")),
        ("student.kd_weight=-1", ("'student.kd_weight'", "-1", "greater than or equal to 0")),
        ("student.kd=fsp", ("student.kd=fsp", "(4, 8, 8)", "(8, 8, 8)", "networks of one width")),
        ("student=3", ("'student'", "section", "3")),
        ("student.lr", ("student.lr", "knob=value")),
        ("seed=-1", ("'seed'", "-1", "greater than or equal to 0")),
        ("biggan.ema_start=20", ("biggan.ema_start", "20", "below biggan.steps = 20")),
        ("biggan.network=biggan_deep", ("biggan_deep", "32, 64, 128, 256", "8 px")),
        ("teacher.network=small_cn", ("'small_cn'", "did you mean 'small_cnn'")),
        ("data.name=digit", ("'digit'", "did you mean 'digits'")),
        ("data.train_images=100000", ("100000", "has only", "set data.train_images to", "null")),
        ("data.title=my set", ("data.title", "'my set'", "'my_set' would do")),
        ("student.batch=100000", ("student.batch = 100000", "'digits'", "200 or less")),
        ("density_ratio.batch=201", ("density_ratio.batch = 201", "200 or less")),
        ("density_ratio.widths=[]", ("'density_ratio.widths'", "[]", "1 to 16 widths")),
        ("data.image_size=4", ("'data.image_size'", "4", "greater than or equal to 8")),
    ],
)
def test_knobs(refused: Refused, assignment: str, names: tuple[str, ...]) -> None:
    refused(*SWEEP, "--set", assignment, names=names)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"student: {lr: [", ("not readable YAML",)),
        (b"\x00\xff\xfe", ("no text",)),
        (b"- 1\n- 2\n", ("mapping", "list")),
        (b"studnet: {lr: 1}\n", ("'studnet'", "did you mean 'student'")),
    ],
)
def test_a_preset_file(refused: Refused, tmp_path: Path, content: bytes, names: tuple[str, ...]) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    refused("tune", "--method", "cgan_kd", "--preset", "mine.yaml", names=("mine.yaml", *names))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (TUNE + "SPACE = {'student.lrr': tune.choice([1])}", ("'student.lrr'", "did you mean 'student.lr'")),
        (TUNE + "SPACE = {'student.lr': tune.choice([])}", ("'student.lr'", "empty")),
        (TUNE + "SPACE = {'student.lr': tune.uniform(-1, 1)}", ("'student.lr'", "-1", "greater than 0")),
        (TUNE + "SPACE = {'student.steps': tune.choice([10, 'all'])}", ("'student.steps'", "'all'", "integer")),
        (TUNE + "SPACE = {'teacher.network': tune.choice(['small_cnn', 'vgg9'])}", ("'vgg9'", "did you mean 'vgg19'")),
        (TUNE + "SPACE = {'data.train_images': tune.choice([100, 100000])}", ("100000", "has only")),
        (TUNE + "SPACE = {'student.lr': {'grid_search': 5}}", ("'student.lr'", "grid_search")),
        (TUNE + "SPACE = {'student.lr': tune.choice([1])}\nMODE = 'up'", ("'up'", "must be 'max', as")),
        (TUNE + "SPACE = {'student.lr': tune.choice([1])}\nMETRIC = 'nope/x'", ("'nope/x'", "student")),
        (TUNE + "SPACE = {3: tune.choice([1])}", ("unknown knob 3",)),
        ("SPACE = {'student.lr': 3}", ("'student.lr'", "sampler", "3")),
        ("SPACE = {}", ("non-empty",)),
        ("SPACE = {", ("SyntaxError",)),
        ("raise ValueError('two\\nlines')", ("ValueError: two lines",)),
        ("import sys; sys.exit(3)", ("SystemExit: 3",)),
    ],
)
def test_a_space(refused: Refused, tmp_path: Path, content: str, names: tuple[str, ...]) -> None:
    (tmp_path / "mine.py").write_text(content)
    refused(*SWEEP, "--space", "mine.py", names=names)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("{", ("damaged", "new sweep")),
        ("[]", ("damaged", "new sweep")),
        ('{"method": "cgan_kd", "trials": "all"}', ("--trials", "'all'")),
        ('{"method": "cgan_kd", "trails": 1}', ("--trails",)),
        ("{}", ("--method",)),
    ],
)
def test_a_damaged_request(refused: Refused, tmp_path: Path, content: str, names: tuple[str, ...]) -> None:
    folder = tmp_path / "runs" / "sweeps" / "mine"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(content)
    refused("tune", "--resume", "mine", names=("sweep.json of", "mine", *names))
    refused("tune", "--resume", "mone", names=("'mone'", "did you mean 'mine'"))


# Data.

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8)
LABELS = np.arange(40) % 4


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({}, ("no training images", "nothing")),
        ({"images_train": IMAGES}, ("needs labels", "labels_train")),
        ({"images_train": IMAGES[:0], "labels_train": LABELS[:0]}, ("is empty",)),
        ({"images_train": IMAGES, "labels_train": 0 * LABELS}, ("all training labels are 0", "two classes")),
        ({"images_train": IMAGES, "labels_train": LABELS - 1}, ("class label -1", "count from 0")),
        ({"images_train": IMAGES, "labels_train": LABELS * 1000}, ("class label 3000", "40 training images")),
        (
            {"images_train": IMAGES, "labels_train": LABELS, "images_test": IMAGES, "labels_test": LABELS + 1},
            ("class '4'", "0, 1, 2, 3", "add training images"),
        ),
        ({"images_train": IMAGES, "labels_train": np.where(LABELS > 2, np.nan, LABELS)}, ("10 NaN", "index 3")),
        ({"images_train": IMAGES / np.float32(255), "labels_train": LABELS}, ("float32", "uint8", "255")),
        ({"images_train": IMAGES[:, :, :6], "labels_train": LABELS}, ("(40, 1, 6, 8)", "square")),
        ({"images_train": IMAGES, "labels_train": LABELS[:30]}, ("(30,)", "40 images")),
        (
            {"images_train": IMAGES, "labels_train": LABELS.astype(np.float32)},
            ("needs class labels", "floating-point", "astype('int64')"),
        ),
    ],
)
def test_hdf5(refused: Refused, tmp_path: Path, arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> None:
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
    where = ("data.name=hdf5", "data.path=mine.h5", "data.train_images=null")
    refused(*SWEEP, *(part for text in where for part in ("--set", text)), names=names)


def test_a_truncated_hdf5(refused: Refused, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["images_train"], file["labels_train"] = IMAGES, LABELS
    whole = (tmp_path / "mine.h5").read_bytes()
    (tmp_path / "mine.h5").write_bytes(whole[: len(whole) // 2])
    data = ("--set", "data.name=hdf5", "--set")
    refused(*SWEEP, *data, "data.path=mine.h5", names=("mine.h5", "truncated"))
    refused(*SWEEP, *data, "data.path=gone.h5", names=("gone.h5", "does not exist"))
    refused(*SWEEP, *data, "data.path=null", names=("data.path",))


def test_a_folder_with_a_broken_image(refused: Refused, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("cats", "dogs"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for place, image in enumerate(IMAGES[:5, 0]):
            Image.fromarray(image).save(tmp_path / "pets" / name / f"{place}.png")
    broken = tmp_path / "pets" / "dogs" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    refused(*SWEEP, "--set", "data.name=folder", "--set", "data.path=pets", names=("dogs/3.png", "replace or remove"))


# Checkpoints.


def test_a_teacher_that_does_not_fit_says_which_keys(refused: Refused, tmp_path: Path) -> None:
    torch.save({"linear.weight": torch.zeros(3, 3), "head.bias": torch.zeros(3)}, tmp_path / "teacher.pth")
    refused(
        *SWEEP, "--set", "teacher.checkpoint=teacher.pth", names=("teacher.pth", "missing: ", "1 unexpected: head.bias", "fit")
    )
    refused(*SWEEP, "--set", "teacher.checkpoint=gone.pth", names=("gone.pth", "does not exist"))


class Code:
    """Unpickled, it would make a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def test_a_teacher_that_holds_code_is_not_run(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "teacher.pth").write_bytes(pickle.dumps(Code(), protocol=2))
    refused(*SWEEP, "--set", "teacher.checkpoint=teacher.pth", names=("teacher.pth", "code", "torch.save"))
    torch.save({"network": Code()}, tmp_path / "teacher.pt")
    refused(*SWEEP, "--set", "teacher.checkpoint=teacher.pt", names=("teacher.pt", "code", "torch.save"))
    assert not (tmp_path / "ran").exists()


# The world around.


def test_a_storage_that_cannot_be_written(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(*SWEEP, "--storage", "file", names=(str(tmp_path / "file"), "--storage"))
    refused(*SWEEP, "--storage", "file/below", names=(str(tmp_path / "file"), "--storage"))
    refused(*SWEEP, "--storage", "/proc/mine", names=("/proc/mine", "--storage"))


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_tracking_server_that_refuses(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    port = closed_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(gankd.sweep.launch, "start_ray", never)
    started = time.monotonic()
    refused("compare", "--dataset", "digits", names=(str(port), "MLFLOW_TRACKING_URI"))
    refused(*SWEEP, names=(str(port), "MLFLOW_TRACKING_URI"))
    assert time.monotonic() - started < 30


def test_a_port_in_use(refused: Refused) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused("ui", "--port", str(port), names=(f"port {port}", "in use", "--port"))


def test_more_gpus_than_there_are(refused: Refused, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setattr(gankd.sweep.experiment, "run_experiment", RUN_EXPERIMENT)
    monkeypatch.setattr(gankd.sweep.launch, "start_ray", lambda address: None)
    monkeypatch.setattr(gankd.sweep.nodes, "nodes_of_ray", lambda: [{"CPU": 2.0, "GPU": 1.0}])
    refused(*SWEEP, "--gpus-per-worker", "4096", names=("4096 GPUs", "there is 1", "--gpus-per-worker"))


@pytest.mark.parametrize(
    ("error", "address", "names"),
    [
        (Exception("The current node timed out during startup. This could"), (), ("Ray does not start", "timed out", "--resume")),
        (ConnectionError("no node"), (), ("Ray does not start", "no node", "--resume")),
        (Exception("The current node timed out"), ("--address", "10.0.0.1:6379"), ("10.0.0.1:6379", "timed out", "`ray up`")),
        (ValueError("no address"), ("--address", "x"), ("'x'", "no address", "`ray up`")),
    ],
)
def test_ray_that_does_not_start(
    refused: Refused, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch,
    error: Exception, address: tuple[str, ...], names: tuple[str, ...],
) -> None:  # fmt: skip
    """Whatever class its errors are of: one of a busy machine is plain Exception."""

    def late(*_: Any, **__: Any) -> None:
        raise error

    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setattr(gankd.sweep.experiment, "run_experiment", RUN_EXPERIMENT)
    monkeypatch.setattr(gankd.sweep.launch, "set_environment", lambda address: None)
    monkeypatch.setattr("ray.init", late)
    refused(*SWEEP, *address, names=names)


# As a user runs it.


def test_refusals_of_a_process(workplace: Workplace) -> None:
    for done in (workplace.tune("--method", "cgan_kd", "--preset", "smoek"), workplace.gankd("show", "nope")):
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


@pytest.mark.long  # the store's own test fills a disk, too
def test_a_full_disk(tmp_path: Path, workplace: Workplace) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["unshare", "-rm", "sh", "-ec", 'mount -t tmpfs -o size=64k tmpfs "$0"; exec "$@"', str(disk)]
    try:
        if subprocess.run([*mount, "true"], capture_output=True).returncode:
            pytest.skip("may not mount a disk here")
    except FileNotFoundError:
        pytest.skip("no unshare here")
    done = workplace._run([*mount, sys.executable, str(ROOT / "tune.py"), *SWEEP[1:], "--storage", str(disk)], timeout=280)
    assert done.returncode == 2, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == done.stderr.splitlines()[-1:]
    assert "is full" in done.stderr
    assert "--storage" in done.stderr


# What fails while training ends its trial with its reason: here in a stage, in a sweep in `tests/platform/test_sweep.py`.

SHORT = {"teacher.epochs": 1, "baseline.epochs": 1, "extractor.epochs": 1, "biggan.steps": 10, "density_ratio.epochs": 1}


def test_a_sampler_that_accepts_nothing_fails_its_stage(tmp_path: Path) -> None:
    method = find_method("cgan_kd")
    knobs = SHORT | {"samples.filter_quantile": 0.001, "samples.max_draws": 3}
    config = build_config(method.config, with_knobs(read_preset(method.presets, "smoke"), knobs))
    job = Job("cgan_kd", config.model_dump(mode="json"), str(tmp_path), sweep="picky", trial="one", threads=1)
    with pytest.raises(StageFailed, match=r"the (filter of class 0 kept|sampler of class 0 reached its limit)") as first:
        run(job)
    with pytest.raises(StageFailed) as again:  # remembered: another trial of the sweep does not try it again
        run(job)
    assert str(again.value) == str(first.value)
    assert {entry.key.partition("-")[0] for entry in Store(tmp_path).ls()} >= {"teacher", "biggan", "density_ratio"}
