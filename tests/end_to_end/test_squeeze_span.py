"""Squeeze & Span by the real `tune.py`: a sweep, a table from the same store, a registered encoder, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.browser import Elements, visit
from tests.conftest import Done, Workplace
from tests.end_to_end.conftest import Here, Refused

SWEEP = ("--method", "squeeze_span", "--preset", "smoke")
TABLE = """
title: two learners
columns: [method]
metrics: {top-1: test_linear/test_accuracy, FID: quality/fid_classifier}
reference: [VICReg]
plot: {x: FID, y: top-1}
rows:
  - {labels: [VICReg], knobs: {encoder.recipe: vicreg_real}, paper: {CIFAR-10: 89.2}}
  - {labels: [squeeze and span], knobs: {encoder.recipe: squeeze_span}, paper: {CIFAR-10: 92.54}}
"""


MADE = ("feature_classifier", "real_statistics", "gan", "pool", "quality", "encoder", "control", "linear_control")
OF_A_ROW = ("encoder", "linear", "test_linear")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Workplace, Done]:
    """A sweep of one trial and two seeds, and what it said."""
    place = Workplace(tmp_path_factory.mktemp("squeeze_span"), database=empty_store)
    place.make("squeeze_span", MADE, {}, sweep="beforehand")
    done = place.tune(*SWEEP, "--trials", "1", "--scheduler", "fifo", "--seeds", "2", "--name", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    return place, done


def test_a_sweep_with_seeds(swept: tuple[Workplace, Done], here: Here) -> None:
    place, done = swept
    assert "gain: linear over linear_control" in done.stdout
    assert "registered digits-encoder version 1 (champion; linear/val_accuracy" in done.stdout
    assert "registered digits-generator version 1" in done.stdout
    assert "over seeds: seeds 1 to 2 chose nothing" in done.stdout
    repeated = [event for event in place.events("first", "trial_end") if event["trial"].startswith("seed")]
    names = {f"seed{s}-{what}-{stage}" for s in (1, 2) for what in ("tuned", "preset") for stage in ("linear", "linear_control")}
    assert {event["trial"] for event in repeated} == names
    assert {event["status"] for event in repeated} == {"finished"}
    of_trial = {e["stage"] for e in place.events("first", "stage_end") if not e["trial"].startswith("seed")}
    assert of_trial == {"linear", "test_gan", "test_linear", "test_linear_control"}

    (trial,) = place.trials("first")
    said = here(place, "evaluate", "digits-encoder/1")
    assert said.returncode == 0, said.stderr
    found = dict(line.split(": ") for line in said.stdout.splitlines())
    assert float(found["val_accuracy"]) == pytest.approx(trial["metrics"]["linear/val_accuracy"], abs=0.01)
    assert {"val_top5", "val_neighbours", "test_accuracy", "test_neighbours"} <= found.keys()


def check_table(place: Workplace, done: Done) -> None:
    """What a table says, and writes."""
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["VICReg", "squeeze and span"]
    assert [row[-1] for row in rows] == ["89.2", "92.54"]
    assert float(rows[1][1]) == pytest.approx(float(rows[0][1]) + float(rows[1][3]), abs=0.02)
    assert (place.folder / "two.png").stat().st_size > 1000
    (page,) = place.folder.rglob("tables/two.md")
    assert "| squeeze and span |" in page.read_text()


def test_a_table_finds_a_row_in_the_store_of_the_sweep(swept: tuple[Workplace, Done], here: Here) -> None:
    place, _ = swept
    (place.folder / "two.yaml").write_text(TABLE)
    place.make("squeeze_span", OF_A_ROW, {"encoder.recipe": "vicreg_real"}, sweep="beforehand")  # the other row
    done = here(place, "tune", *SWEEP, "--table", "two.yaml", "--name", "two")
    check_table(place, done)
    assert "device-seconds, own + shared: " in done.stdout
    assert not place.events("two", "stage_end")
    again = here(place, "tune", "--resume", "two")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "squeeze and span" in again.stdout
    compared = here(place, "compare", "--dataset", "digits")
    assert compared.returncode == 0, compared.stderr
    assert compared.stdout.count("two learners") == 1  # of the table filled twice, the newest
    assert "generated images on digits" in compared.stdout


def test_the_report_opens_in_a_browser_that_is_offline(swept: tuple[Workplace, Done], here: Here, tmp_path: Path) -> None:
    """Of the sweep and of the table above, and the methods of their data set side by side."""
    place, _ = swept
    done = here(place, "report", "--dataset", "digits", "--out", "report.html")
    assert done.returncode == 0, done.stderr
    page = (place.folder / "report.html").read_text()
    Elements(page).check_whole()
    assert len(page) < 5_000_000
    quiet = ("--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files")
    seen = visit((place.folder / "report.html").as_uri(), tmp_path / "one", *quiet)
    assert "CONSOLE" not in seen.stderr  # nor a word of the page's own policy, which forbids scripts and requests
    compared = ("students on digits", "generated images on digits", "Sweep first", "Sweep two", "two learners", "seed by seed")
    for text in (*compared, "gan/sample_grid", "made by sweep beforehand", "Learning curves", "Provenance", "--table"):
        assert text in seen.stdout, text

    # With a script of our own, which its policy would forbid: what the browser made of the pictures, and what it fetched.
    look = "[...document.images].map(i => i.naturalWidth), fetched: performance.getEntriesByType('resource').map(e => e.name)"
    script = f"<script>addEventListener('load', () => document.title = JSON.stringify({{ widths: {look} }}))</script>"
    (tmp_path / "copy.html").write_text(
        page.replace('http-equiv="Content-Security-Policy"', "").replace("</body>", f"{script}</body>")
    )
    title = visit((tmp_path / "copy.html").as_uri(), tmp_path / "two").stdout.partition("<title>")[2].partition("</title>")[0]
    found = json.loads(title)
    assert found["widths"]
    assert min(found["widths"]) > 0
    assert not [address for address in found["fetched"] if not address.startswith("data:")]


def test_the_report_of_a_table_is_with_its_run(swept: tuple[Workplace, Done]) -> None:
    place, _ = swept
    (page,) = place.folder.rglob("artifacts/report.html")
    assert "two learners" in page.read_text()


@pytest.mark.long  # Ray runs what a table lacks as it runs what is repeated over seeds
def test_a_table_makes_the_row_that_is_missing(workplace: Workplace) -> None:
    workplace.make("squeeze_span", (*MADE, *OF_A_ROW), {})
    (workplace.folder / "two.yaml").write_text(TABLE)
    check_table(workplace, workplace.tune(*SWEEP, "--table", "two.yaml", "--name", "two"))
    assert {e["stage"] for e in workplace.events("two", "stage_end")} == set(OF_A_ROW)  # of VICReg alone


@pytest.mark.parametrize(
    ("knob", "says"),
    [
        ("encoder.alpha=1.5", ("'encoder.alpha'", "1.5", "less than or equal to 1")),
        ("encoder.alpha=-0.1", ("'encoder.alpha'", "-0.1", "greater than or equal to 0")),
        ("encoder.alpha=0", ("'squeeze_span'", "alpha = 0", "vicreg_real")),
        ("encoder.recipe=encode_mixed --set encoder.alpha=0", ("'encode_mixed'", "alpha = 0")),
        ("gan.network=biggan --set encoder.recipe=encode_mixed", ("'encode_mixed'", "gan.network is biggan")),
        ("encoder.alpha=0.05", ("alpha = 0.05", "a single image of a kind")),
        ("encoder.recipe=squeze", ("'encoder.recipe'", "'squeze'", "'squeeze'")),
        ("encoder.network=resnet18_cifra", ("'encoder.network'", "did you mean 'resnet18_cifar'")),
        ("encoder.network=resnet20", ("'encoder.width'", "small_cnn", "resnet20")),
        ("encoder.normalisation=[[0.5,0.5],[0.5,0.5]]", ("'encoder.normalisation'", "1 means")),
        ("encoder.batch=101", ("encoder.batch = 101", "100 training images")),
        ("encoder.distillation=-1", ("'encoder.distillation'", "-1")),
        ("encoder.renew=2", ("'encoder.renew'", "2", "less than or equal to 1")),
        ("pool.images=2000000000", ("pool.images = 2,000,000,000", "of memory", "encoder.renew")),
        ("linear.lrs=[]", ("'linear.lrs'", "at least 1")),
        ("linear.lrs=[0]", ("'linear.lrs'", "greater than 0")),
        ("linear.batch=101", ("linear.batch = 101", "100 training images")),
        ("gan.r1=-1", ("'gan.r1'", "-1")),
        ("gan.checkpoint=gone.pkl", ("gone.pkl",)),
        ("data.image_size=12", ("stylegan2", "12 px", "data.image_size")),
        ("data.name=digits_angle", ("needs class labels", "digits_angle")),
    ],
)
def test_knobs(refused: Refused, knob: str, says: tuple[str, ...]) -> None:
    refused("tune", *SWEEP, "--set", *knob.split(), names=says)


def test_a_pool_that_nobody_renews(refused: Refused) -> None:
    knobs = ("--set", "encoder.fresh=true", "--set", "encoder.renew=0.1")
    refused("tune", *SWEEP, *knobs, names=("encoder.fresh", "encoder.renew"))


@pytest.mark.parametrize(
    ("labels", "says"), [(None, "needs labels"), (np.zeros(120, np.int64), "two classes (or values) at least are needed")]
)
def test_labels_that_nothing_can_be_evaluated_by(refused: Refused, tmp_path: Path, labels: np.ndarray | None, says: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (120, 1, 8, 8), dtype=np.uint8)
    arrays = {"images_train": images} | ({} if labels is None else {"labels_train": labels})
    arrays |= {name.replace("train", "test"): value[:40] for name, value in arrays.items()}
    np.savez(tmp_path / "mine.npz", **arrays)
    data = ("--set", "data.name=npz", "--set", f"data.path={tmp_path / 'mine.npz'}", "--set", "data.train_images=null")
    refused("tune", *SWEEP, *data, names=(says,))


def test_a_table_that_is_none(refused: Refused) -> None:
    refused("tune", *SWEEP, "--table", "table4", names=("'table4'", "did you mean 'table"))


@pytest.mark.parametrize("flag", [("--trials", "3"), ("--scheduler", "fifo"), ("--space", "x.py"), ("--search", "optuna")])
def test_flags_that_a_table_has_no_use_for(refused: Refused, flag: tuple[str, str]) -> None:
    refused("tune", *SWEEP, "--table", "table1", *flag, names=(flag[0], "searches nothing"))


def test_a_part_of_a_batch_that_workers_cannot_share(refused: Refused) -> None:
    knobs = ("--workers", "2", "--set", "encoder.alpha=0.1")  # 3 of 32
    refused("tune", *SWEEP, *knobs, names=("'encoder.generated' cannot be 3", "--workers 2"))
