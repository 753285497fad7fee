"""How folders become parts and classes: usual spellings are understood, what can be read in two ways is refused with both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gankd.data import DataConfig, DataSet, load
from gankd.data.layout import part_of
from gankd.errors import UserError


def read(path: Path, **more: object) -> DataSet:
    load.cache_clear()
    return load(DataConfig(name="folder", path=str(path), **more))  # type: ignore[arg-type]


def classes(folder: Path, *names: str, n: int = 5) -> Path:
    """`n` pictures in a folder for each name."""
    for seed, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = np.random.default_rng((seed, i)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Val", "Test"),
        ("TRAINING", "Validation", "Testing"),
        ("training_set", "dev-set", "test set"),
        ("train2017", "valid2017", "test2017"),
        ("trainset", "validset", "testset"),
        ("train_images", "val_images", "test_images"),
    ],
)
def test_parts_in_their_usual_spellings(tmp_path: Path, train: str, val: str, test: str) -> None:
    for folder, n in ((train, 5), (val, 2), (test, 3)):
        classes(tmp_path / folder, "ant", "bee", n=n)
    data = read(tmp_path)
    assert [len(data.train), len(data.val), len(data.test)] == [10, 4, 6]
    assert data.class_names == ("ant", "bee")
    assert data.origins == {"train": f"from {train}/", "val": f"from {val}/", "test": f"from {test}/"}


@pytest.mark.parametrize("name", ["trains", "tested", "valve", "contest", "train_station", "devices", "images", "1"])
def test_other_names_are_classes(name: str) -> None:
    assert part_of(name) is None


@pytest.mark.parametrize(("part", "others"), [("train", ("bus", "car")), ("Test", ("cats", "dogs")), ("valid", ("invalid",))])
def test_a_part_beside_classes_is_refused_with_both_readings(tmp_path: Path, part: str, others: tuple[str, ...]) -> None:
    classes(tmp_path, part, *others)
    with pytest.raises(UserError, match=rf"two ways: {part}/ as part .* move {others[0]}/.* or all as classes, .*train/{part}/"):
        read(tmp_path)


def test_a_class_that_is_called_train_is_possible_as_the_message_says(tmp_path: Path) -> None:
    data = read(classes(tmp_path / "train", "train", "bus", "test").parent)
    assert data.class_names == ("bus", "test", "train")
    assert len(data.train) + len(data.val) + len(data.test) == 15


def test_folders_without_pictures_beside_parts_do_not_count(tmp_path: Path) -> None:
    classes(tmp_path / "train", "ant", "bee")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.json").write_text("{}")
    assert read(tmp_path).class_names == ("ant", "bee")


def test_two_folders_for_one_part_are_refused(tmp_path: Path) -> None:
    for part in ("train", "val", "dev"):
        classes(tmp_path / part, "ant", "bee")
    with pytest.raises(UserError, match="holds dev/ and val/, which both say 'val': join them"):
        read(tmp_path)


@pytest.mark.parametrize("above", ["", "train"])
def test_a_class_folder_of_folders_is_refused_with_both_readings(tmp_path: Path, above: str) -> None:
    classes(tmp_path / above / "animals", "cat", "dog")
    classes(tmp_path / above / "vehicles", "bus", "car")
    with pytest.raises(
        UserError, match=r"animals holds only folders \(cat/, dog/\) .* as one class, .* or as a folder of classes"
    ):
        read(tmp_path)


def test_folders_within_a_class_that_has_pictures_belong_to_it(tmp_path: Path) -> None:
    classes(tmp_path, "cat", "cat/indoor", "dog")
    data = read(tmp_path)
    assert (data.classes, len(data.train) + len(data.val) + len(data.test)) == (2, 15)


def test_a_lone_folder_as_archives_unpack_is_entered_and_said(tmp_path: Path) -> None:
    classes(tmp_path / "signs" / "signs" / "Train", "stop", "yield")
    classes(tmp_path / "signs" / "signs" / "Test", "stop", "yield", n=2)
    classes(tmp_path / "__MACOSX", "signs")
    (tmp_path / ".hidden").mkdir()
    data = read(tmp_path)
    assert data.class_names == ("stop", "yield")
    assert len(data.test) == 4
    assert data.remarks == (f"the pictures are taken from signs/signs/, the one folder in {tmp_path}",)


def test_a_lone_folder_of_pictures_is_one_class_too_few(tmp_path: Path) -> None:
    classes(tmp_path, "cats")
    with pytest.raises(UserError, match="holds 1 class folders; two at least"):
        read(tmp_path)


def test_what_archivers_and_file_systems_leave_is_no_class(tmp_path: Path) -> None:
    classes(tmp_path, "ant", "bee", "__MACOSX", "@eaDir", ".cache", "bee/@eaDir")
    data = read(tmp_path)
    assert data.class_names == ("ant", "bee")
    assert len(data.train) + len(data.val) + len(data.test) == 10


def test_a_class_folder_with_nothing_in_it_is_left_out_and_said(tmp_path: Path) -> None:
    classes(tmp_path / "train", "ant", "bee")
    classes(tmp_path / "test", "ant", "bee", n=2)
    (tmp_path / "train" / "wasp").mkdir()
    (tmp_path / "test" / "fly").mkdir()
    data = read(tmp_path)
    assert (data.classes, data.class_names) == (2, ("ant", "bee"))
    assert data.remarks == ("1 of 3 classes has no training image and is left out: wasp",)
    classes(tmp_path / "test", "wasp", n=2)
    with pytest.raises(UserError, match="class 'wasp' has 2 test images and none to train on"):
        read(tmp_path)


def test_pictures_in_no_class_folder_are_counted(tmp_path: Path) -> None:
    classes(tmp_path, "", "ant", "bee")
    assert read(tmp_path).remarks == (f"5 pictures right in {tmp_path}, in no class folder, are not used (0.png, 1.png, 2.png)",)
    classes(tmp_path / "parts", "")
    classes(tmp_path / "parts" / "train", "ant", "bee")
    assert read(tmp_path / "parts").remarks[0].startswith(f"5 pictures right in {tmp_path / 'parts'}, in no part, are not used")


def test_links_are_followed_and_loops_are_refused(tmp_path: Path) -> None:
    classes(tmp_path / "elsewhere", "wasp")
    root = classes(tmp_path / "set", "ant", "bee")
    (root / "wasp").symlink_to(tmp_path / "elsewhere" / "wasp")
    assert read(root).class_names == ("ant", "bee", "wasp")
    (root / "ant" / "again").symlink_to(root / "ant")
    with pytest.raises(UserError, match="again is a link to a folder that it lies in: remove the link"):
        read(root)


def test_a_folder_that_links_only_to_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(UserError, match="class folders; two at least"):
        read(tmp_path)


def test_what_may_not_be_read_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes(tmp_path, "ant", "bee")
    whole = Path.iterdir

    def refuse(folder: Path) -> object:
        if folder.name == "bee":
            raise PermissionError(13, "Permission denied", str(folder))
        return whole(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match="bee cannot be read: Permission denied"):
        read(tmp_path)
