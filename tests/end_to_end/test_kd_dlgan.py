"""A sweep of KD-DLGAN by the real `tune.py`, and what is refused before it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import Workplace
from tests.end_to_end.conftest import Refused

SWEEP = ("--method", "kd_dlgan", "--preset", "smoke")


@pytest.mark.long  # RGAL's is of its kind
def test_a_sweep(workplace: Workplace) -> None:
    workplace.make("kd_dlgan", ("feature_classifier", "real_statistics", "teacher", "embeddings", "control"), {})
    done = workplace.tune(*SWEEP, "--trials", "1", "--scheduler", "fifo", "--name", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gain: quality over quality_control" in done.stdout
    assert "registered digits-generator version 1 (champion; quality/fid_classifier" in done.stdout
    rows = done.stdout.partition("generators, on the validation part")[2].splitlines()
    assert all(title in rows[2] for title in ("FID", "recall", "coverage", "spread", "class accuracy"))
    assert [row.split("│")[1].strip() for row in rows[4:6]] == ["quality", "quality_control"]
    assert "quality: the generated images have collapsed (recall is 0.0" in done.stdout  # twenty steps of four channels
    ends = workplace.events("first", "stage_end")
    assert {event["status"] for event in ends} == {"finished"}
    assert {event["stage"] for event in ends} == {"gan", "quality", "test_gan", "test_control", "quality_control"}
    assert "teacher: offline: trained on the same 100 labelled images, not CLIP" in " ".join(done.stdout.split())
    (trial,) = workplace.trials("first")
    assert trial["metrics"]["teacher/val_accuracy"] > 0


@pytest.mark.parametrize(
    ("knob", "says"),
    [
        ("kd.agkd=-1", ("'kd.agkd'", "-1", "greater than or equal to 0")),
        ("kd.cgkd=-0.5", ("'kd.cgkd'", "-0.5", "greater than or equal to 0")),
        ("kd.pd=-1", ("'kd.pd'", "-1", "greater than or equal to 0")),
        ("kd.aggregation=1.5", ("'kd.aggregation'", "1.5", "less than or equal to 1")),
        ("kd.prompt_list=[one, two, three]", ("kd.prompt_list has 3 prompts", "10 classes")),
        ("kd.prompt_list=[one, one]", ("'kd.prompt_list'", "no entry may stand twice")),
        ("kd.distance=l3", ("'kd.distance'", "'l3'", "'cosine'")),
        ("teacher.kind=clip", ("'teacher.kind'", "'clip'", "'open_clip'")),
        ("teacher.kind=open_clip", ("teacher.weights", "nothing is downloaded")),
        ("teacher.batch=101", ("teacher.batch = 101", "100 training images")),
        ("gan.batch=101", ("gan.batch = 101", "100 training images")),
        ("data.train_images=9", ("data.train_images=9", "leaves classes without an image")),
        ("gan.mode_seeking=-1", ("'gan.mode_seeking'", "-1")),
        ("gan.transition=[0.5, 0.1]", ("transition", "must begin before it ends")),
    ],
)
def test_knobs(refused: Refused, knob: str, says: tuple[str, ...]) -> None:
    refused("tune", *SWEEP, "--set", knob, names=says)


def test_a_uniform_draw_that_leaves_a_class_empty(refused: Refused) -> None:
    draw = ("--set", "data.train_draw=uniform", "--set", "data.train_images=12")
    refused("tune", *SWEEP, *draw, names=("data.train_images=12", "train_draw=uniform leaves", "of 10 classes", "split_seed"))


class FakeClip(nn.Module):
    """What open_clip makes of an architecture, with 8 numbers in place of 512."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.visual = nn.Linear(3 * 8 * 8, width)
        self.text = nn.Embedding(256, width)

    def encode_image(self, images: Tensor) -> Tensor:
        features: Tensor = self.visual(images.flatten(1))
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.text(tokens).mean(1)
        return features


ARCHITECTURES: dict[str, dict[str, Any]] = {
    name: {"embed_dim": width, "vision_cfg": {"image_size": 8}, "text_cfg": text} | quick
    for name, width, text, quick in (
        ("tiny-quickgelu", 8, {}, {"quick_gelu": True}),
        ("tiny", 8, {}, {}),
        ("wide-quickgelu", 12, {}, {"quick_gelu": True}),
        ("fetched", 8, {"hf_tokenizer_name": "somebody/something"}, {}),
    )
}


def tokens(sentences: list[str]) -> Tensor:
    return torch.tensor([[ord(letter) % 256 for letter in text.ljust(20)[:20]] for text in sentences])


@pytest.fixture
def open_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for the library, and a file of weights for `tiny`."""
    library = SimpleNamespace(
        get_model_config=ARCHITECTURES.get,
        create_model=lambda name, **_: FakeClip(ARCHITECTURES[name]["embed_dim"]),
        get_tokenizer=lambda name: tokens,
    )
    monkeypatch.setitem(sys.modules, "open_clip", library)
    torch.save(FakeClip(8).state_dict(), tmp_path / "clip.pt")


def clip(architecture: str, *knobs: str) -> tuple[str, ...]:
    common = ("teacher.kind=open_clip", "teacher.embed_dim=0", "teacher.weights=clip.pt")
    all_knobs = (*common, f"teacher.architecture={architecture}", *knobs)
    return ("tune", *SWEEP, *(part for knob in all_knobs for part in ("--set", knob)))


@pytest.mark.parametrize(
    ("architecture", "knobs", "says"),
    [
        ("wide-quickgelu", (), ("clip.pt", "of another shape", "visual.weight")),
        ("tiny", (), ("tiny has no QuickGELU", "teacher.quick_gelu is true", "-quickgelu")),
        ("tiny-quickgelu", ("teacher.quick_gelu=false",), ("tiny-quickgelu has QuickGELU", "teacher.quick_gelu is false")),
        ("tiny-quickgelu", ("teacher.embed_dim=512",), ("teacher.embed_dim is 512", "tiny-quickgelu has 8")),
        ("fetched", (), ("tokenizer would be downloaded",)),
        ("ViT-B-99", (), ("no architecture 'ViT-B-99'",)),
        ("tiny-quickgelu", ("teacher.weights=gone.pt",), ("gone.pt",)),
    ],
)
def test_a_clip_that_does_not_fit(
    refused: Refused, open_clip: None, architecture: str, knobs: tuple[str, ...], says: tuple[str, ...]
) -> None:
    refused(*clip(architecture, *knobs), names=says)


def test_a_clip_without_its_library(refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    torch.save({}, tmp_path / "clip.pt")
    refused(*clip("tiny-quickgelu"), names=("pip install 'gankd[clip]'",))


def test_a_clip_teaches(open_clip: None, workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace.folder)
    knobs = {"teacher.kind": "open_clip", "teacher.architecture": "tiny-quickgelu"}
    knobs |= {"teacher.weights": str(workplace.folder / "clip.pt"), "teacher.embed_dim": "0"}
    workplace.make("kd_dlgan", ("feature_classifier", "teacher", "embeddings", "gan"), knobs)
    made = {manifest.parent.name.partition("-")[0]: manifest.parent for manifest in workplace.storage.glob("artifacts/*/*.json")}
    assert {"teacher", "embeddings", "gan"} <= made.keys()
    assert "open_clip tiny-quickgelu" in (made["teacher"] / "teacher.json").read_text()
