"""A generator out of an official StyleGAN2-ADA file teaches; one that does not fit, or means harm, is refused beforehand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gankd.config import build_config, read_preset, with_knobs
from gankd.data import load
from gankd.errors import UserError
from gankd.naming import stage_keys
from gankd.pipeline import Job, run
from gankd.registry import find_method
from gankd.store import Store
from methods.squeeze_span.checks import check_generator
from methods.squeeze_span.config import SqueezeSpanConfig
from tests.unit.test_stylegan2_import import Call, generator, pickled, snapshot

METHOD = find_method("squeeze_span")


def config(file: Path, **knobs: Any) -> SqueezeSpanConfig:
    given = {"gan.checkpoint": str(file)} | {name.replace("__", "."): value for name, value in knobs.items()}
    return build_config(SqueezeSpanConfig, with_knobs(read_preset(METHOD.presets, "smoke"), given))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "network-snapshot.pkl"
    path.write_bytes(pickled(snapshot(f"open({str(tmp_path / 'ran')!r}, 'w')")))
    return path


def test_it_teaches_and_its_discriminator_is_a_row(file: Path, tmp_path: Path) -> None:
    cfg, storage = config(file), str(tmp_path / "runs")
    run(Job("squeeze_span", cfg.model_dump(mode="json"), storage, stages=("quality", "linear"), threads=1))
    row = config(file, encoder__recipe="discriminator_multi")
    run(Job("squeeze_span", row.model_dump(mode="json"), storage, stages=("linear",), threads=1))
    made = Store(storage).get(stage_keys(METHOD, cfg, load(cfg.data).fingerprint)["gan"])
    assert made is not None
    kept = load_file(made.file("model.safetensors"))
    assert all(torch.equal(kept[name], value) for name, value in generator().state_dict().items())
    assert made.manifest["notes"][0].startswith("generator: G_ema:")
    assert not (tmp_path / "ran").exists()


def test_its_content_is_in_the_key_and_what_trains_is_not(file: Path) -> None:
    fingerprint = load(config(file).data).fingerprint
    before = stage_keys(METHOD, config(file), fingerprint)["gan"]
    assert stage_keys(METHOD, config(file, gan__steps=9, gan__g_lr=0.1), fingerprint)["gan"] == before
    file.write_bytes(pickled(snapshot("another source")))
    os.utime(file, (1, 1))
    assert stage_keys(METHOD, config(file), fingerprint)["gan"] != before


def test_a_generator_of_another_resolution(file: Path) -> None:
    cfg = config(file, data__image_size=16)
    with pytest.raises(UserError, match=r"makes images of 8 px with 1 channels, .* 16 px .* set data\.image_size=8"):
        check_generator("gan", cfg.gan, load(cfg.data))


def test_a_file_that_holds_code(file: Path, tmp_path: Path) -> None:
    file.write_bytes(pickled({"G_ema": Call(os.system, f"touch {tmp_path / 'ran'}")}))
    cfg = config(file)
    with pytest.raises(UserError, match=r"posix|os\.system"):
        check_generator("gan", cfg.gan, load(cfg.data))
    assert not (tmp_path / "ran").exists()
