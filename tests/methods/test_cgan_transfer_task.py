"""Which images belong to which classes, what is refused, and what the presets hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gankd.config import build_config, preset_names, read_preset
from gankd.data import DataConfig, DataSet, Split, load
from gankd.errors import UserError
from gankd.models import build
from gankd.models.checkpoint_file import Checkpoint
from gankd.naming import stage_keys
from gankd.registry import find_method
from gankd.stages.quality import of_classes
from gankd.stages.sections import QualityConfig
from methods.cgan_transfer.checks import check_bn, check_transfer
from methods.cgan_transfer.config import BnConfig, CganTransferConfig, FtConfig, PretrainConfig, TaskConfig, TrainingConfig
from methods.cgan_transfer.importing import import_networks
from methods.cgan_transfer.task import class_numbers, few, new_images, old_and_new, renumbered

METHOD = find_method("cgan_transfer")
DIGITS = load(DataConfig(name="digits", val_fraction=0.4))


def named(names: str, per_class: int = 6) -> DataSet:
    """Blank images of classes with these names (one letter each)."""
    labels = np.tile(np.arange(len(names)), per_class)
    part = Split(np.zeros((len(labels), 1, 8, 8), np.uint8), labels)
    return DataSet("toy", part, part, part, len(names), tuple(names), "", None, "0123456789abcdef")


@pytest.mark.parametrize("called", ["7", "07", "0", "seven"])
def test_a_number_is_no_class_where_names_are_made_of_digits(called: str) -> None:
    data = DataSet("signs", *[DIGITS.train] * 3, 3, ("007", "008", "009"), "", None, "")
    assert class_numbers(("008", "007"), data) == [1, 0]
    with pytest.raises(UserError, match=f"'signs' has no class '{called}'"):
        class_numbers((called,), data)


def test_a_class_listed_twice_is_refused() -> None:
    with pytest.raises(UserError, match="'b' is listed twice"):
        class_numbers(("b", "1"), named("abc"))


def test_classes_by_name_or_number_and_the_rest() -> None:
    assert class_numbers(("7", "8", "9"), DIGITS) == [7, 8, 9]
    assert class_numbers(("b", "0"), named("abc")) == [1, 0]
    assert old_and_new(TaskConfig(new_classes=(7, 8, 9)), DIGITS) == ([0, 1, 2, 3, 4, 5, 6], [7, 8, 9])
    assert old_and_new(TaskConfig(old_classes=(3, 1)), DIGITS)[1] == [0, 2, 4, 5, 6, 7, 8, 9]
    assert old_and_new(TaskConfig(), named("abc"), pretrained=True) == ([], [0, 1, 2])


def test_labels_are_renumbered_in_the_order_asked_for() -> None:
    part = Split(np.arange(6)[:, None, None, None].astype(np.uint8), np.array([0, 1, 2, 3, 2, 1]))
    cut = renumbered(part, [2, 1])
    assert cut.images.ravel().tolist() == [1, 2, 4, 5]
    assert cut.labels.tolist() == [1, 0, 0, 1]
    assert of_classes(part, [2, 1]).labels.tolist() == [1, 2, 2, 1]


def test_few_images_are_equally_many_of_each_class_and_nested() -> None:
    part = renumbered(DIGITS.train, [7, 8, 9])
    five, ten = few(part, 5, seed=3), few(part, 10, seed=3)
    assert np.bincount(ten.labels).tolist() == [10, 10, 10]
    assert {image.tobytes() for image in five.images} <= {image.tobytes() for image in ten.images}
    assert few(part, 0, seed=3) is part
    task = TaskConfig(new_classes=(7, 8), images_per_class=5)
    other, _ = new_images(task, load(DataConfig(name="digits", val_fraction=0.4, split_seed=1)))
    mine, classes = new_images(task, DIGITS)
    assert classes == [7, 8]
    assert np.bincount(mine.labels).tolist() == [5, 5]
    assert not np.array_equal(mine.images, other.images)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"task": {"old_classes": [1, 2], "new_classes": [2, 3]}}, "class 2 is in task.old_classes and in task.new_classes"),
        ({"task": {"new_classes": [3, 3]}}, "class 3 stands twice in task.new_classes"),
        ({"pretrain": {"checkpoint": "G.pth"}}, "pretrain.discriminator_checkpoint"),
        ({"training": {"batch": 50, "accumulations": 4}}, "training.batch = 50 cannot be cut into training.accumulations = 4"),
        ({"bn": {"share": 0.01}, "training": {"steps": 20}}, "bn.share = 0.01 of training.steps = 20"),
    ],
)
def test_knobs_that_contradict_each_other(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as refused:
        build_config(CganTransferConfig, knobs)
    assert says in str(refused.value)


def test_what_the_data_does_not_have() -> None:
    with pytest.raises(UserError, match=r"'digits' has no class '10'.* \(it has 10: 0, 1"):
        old_and_new(TaskConfig(new_classes=(10,)), DIGITS)
    with pytest.raises(UserError, match="did you mean 'cats'"):
        class_numbers(("cat",), DataSet("pets", *[DIGITS.train] * 3, 2, ("cats", "dogs"), "", None, ""))
    with pytest.raises(UserError, match="class b is old and new at once"):  # by name and by number
        old_and_new(TaskConfig(old_classes=("a", "b"), new_classes=(1,)), named("abc"))
    with pytest.raises(UserError, match="1 old classes are left"):
        old_and_new(TaskConfig(new_classes=(0, 1)), named("abc"))


def test_too_few_images_are_refused_and_fewer_than_a_batch_named(caplog: pytest.LogCaptureFixture) -> None:
    data = named("abcd")
    reads: dict[str, Any] = {"training": TrainingConfig(batch=10)}
    with pytest.raises(UserError, match=r"class 'c' has 6 training images, but task\.images_per_class is 7"):
        check_transfer("ft", FtConfig(), data, task=TaskConfig(new_classes=("c", "d"), images_per_class=7), **reads)
    check_transfer("ft", FtConfig(), data, task=TaskConfig(new_classes=("c", "d"), images_per_class=3), **reads)
    assert "6 training images together, fewer than training.batch = 10" in caplog.text
    task = TaskConfig(old_classes=("a", "b"))
    with pytest.raises(UserError, match=r"'bn\.neighbours' cannot be 3: there are 2 old classes"):
        check_bn("bn", BnConfig(neighbours=3), data, task=task, **reads)
    empty = DataSet("toy", data.train, data.val.take(np.arange(3)), data.test, 4, data.class_names, "", None, "00000000")
    with pytest.raises(UserError, match="new class 'c' has 1 validation images, two at least"):
        check_transfer("ft", FtConfig(), empty, task=task, **reads)


def test_a_sweep_over_the_regularisers_trains_neither_gan_nor_controls_again() -> None:
    touched = METHOD.touched({"bn.comb_l1_scale", "bn.res_l2_scale", "bn.g_lr", "bn.share"})
    assert {name for name in touched if not name.startswith(("quality_", "test_"))} == {"bn", "ft"}
    # The rate of FT is plain fine-tuning's too.
    touched = METHOD.touched({"ft.g_lr"})
    assert {name for name in touched if not name.startswith(("quality_", "test_"))} == {"ft", "finetune"}
    # How many new images there are, and how generators are measured, does not concern the GAN of the old classes.
    assert "pretrain" not in METHOD.touched({"task.images_per_class", "quality.kid_subsets", "quality.neighbours"})
    assert METHOD.touched({"quality.kid_subsets"}) == {
        f"{what}_{which}" for what in ("quality", "test") for which in ("bn", "ft", "finetune", "scratch")
    }


@pytest.mark.parametrize(("keep", "depends"), [("best", True), ("last", False)])
def test_a_generator_chosen_by_the_feature_classifier_is_another_for_another_one(keep: str, depends: bool) -> None:
    def keys(**feature_classifier: Any) -> dict[str, str]:
        tree = {"training": {"keep": keep}, "feature_classifier": feature_classifier}
        return stage_keys(METHOD, METHOD.config.model_validate(tree), "data")

    before, after = keys(), keys(epochs=9)
    for stage in ("bn", "ft", "finetune", "scratch"):
        assert (before[stage] != after[stage]) == depends, stage


def test_how_generators_are_measured_in_the_end_trains_none_again() -> None:
    assert not {"bn", "ft", "finetune", "scratch", "pretrain"} & METHOD.touched(
        {f"quality.{knob}" for knob in QualityConfig.model_fields}
    )


def test_paper_presets_hold_the_scripts_values() -> None:
    assert set(preset_names(METHOD.presets)) == {"digits", "smoke", "cifar100", "cifar100_small", "imagenet128"}
    cifar, imagenet = (build_config(CganTransferConfig, read_preset(METHOD.presets, n)) for n in ("cifar100", "imagenet128"))
    assert len(cifar.task.new_classes) == 20
    assert (cifar.bn.variant, cifar.bn.comb_l1_scale, cifar.bn.res_l2_scale) == ("cifar", 0.01, 0.01)
    assert (cifar.training.batch, cifar.bn.g_lr, cifar.training.d_lr) == (50, 2e-4, 2e-4)
    assert (imagenet.bn.variant, imagenet.bn.comb_l1_scale, imagenet.bn.res_l2_scale) == ("imagenet", 0.01, 0.1)
    assert (imagenet.training.batch, imagenet.training.accumulations, imagenet.training.d_steps) == (2048, 8, 1)
    assert (imagenet.bn.g_lr, imagenet.training.d_lr, imagenet.training.adam_eps) == (1e-4, 4e-4, 1e-6)
    for config in (cifar, imagenet):
        assert config.bn.start == "random"
        assert config.bn.residual == "random"
        assert config.bn.train_base
    assert isinstance(imagenet.pretrain, PretrainConfig)
    assert (imagenet.pretrain.width, imagenet.pretrain.dim_z, imagenet.pretrain.shared_dim) == (96, 120, 128)


def gan_files(folder: Path, **generator: Any) -> PretrainConfig:
    common = {"image_size": 8, "classes": 7, "image_channels": 1, "width": 4}
    made = build("biggan", dim_z=16, **common | generator), build("biggan_discriminator", **common)
    torch.save({"G_ema": {f"module.{name}": value for name, value in made[0].state_dict().items()}, "step": 3}, folder / "G.pth")
    torch.save(made[1].state_dict(), folder / "D.pth")
    files = {"checkpoint": str(folder / "G.pth"), "discriminator_checkpoint": str(folder / "D.pth")}
    return PretrainConfig(width=4, dim_z=16, **files)


def test_a_gan_inside_a_files_mappings_is_found_and_that_is_said(tmp_path: Path) -> None:
    generator, _, said = import_networks(gan_files(tmp_path), DIGITS)
    assert generator.classes == 7
    assert said.endswith("7 classes, taken from 'G_ema' in G.pth")


def test_a_gan_of_other_sizes_is_refused_before_its_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = gan_files(tmp_path, image_size=16)
    monkeypatch.setattr(Checkpoint, "read", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(UserError, match=r"has 16 px, but the data has 8"):
        import_networks(cfg, DIGITS)


def test_a_file_that_is_no_gan_is_named(tmp_path: Path) -> None:
    cfg = gan_files(tmp_path)
    torch.save({"linear.weight": torch.zeros(3, 3)}, tmp_path / "D.pth")
    with pytest.raises(UserError, match=r"the checkpoint '.*D\.pth': a checkpoint with 0 blocks"):
        import_networks(cfg, DIGITS)
