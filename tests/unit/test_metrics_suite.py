"""One pass over images to all metrics: extractors, truncation, workers, bad numbers, and what each metric is there to see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gankd.data import Split
from gankd.errors import StageFailed, UserError
from gankd.metrics.extractors import classifier, from_weights, inception_torchvision, quantise, random_conv
from gankd.metrics.features import Features, measure
from gankd.metrics.suite import cautions, fid, intra_fid, real_side, suite
from gankd.models import build
from gankd.models.generative import Generative
from gankd.stages.quality import Renumbered, generated_features, generated_labels, real_features, score_network
from gankd.stages.sections import QualityConfig
from tests.unit.metric_fixtures import on_threads

CFG = QualityConfig(neighbours=3)
PAIRED = ("kid", "kmmd", "mmd2_u", "precision", "recall", "density", "coverage", "intra_fid")


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int, seed: int = 0, classes: int = 4) -> tuple[Tensor, Tensor]:
    """uint8 images (n, 1, 8, 8) whose brightness and stripes tell the class, and labels."""
    labels = torch.arange(n) % classes
    waves = torch.sin(torch.arange(8.0) * (1 + labels[:, None])) * 60
    noise = torch.randn(n, 1, 8, 8, generator=generator_of(seed)) * 25
    images = 128 + waves[:, None, None, :] + noise
    return images.clamp(0, 255).to(torch.uint8), labels


def batches(images: Tensor, labels: Tensor, size: int = 50, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(rank * size, len(labels), world * size):
        yield images[start : start + size], labels[start : start + size]


def features(n: int, seed: int = 0, **options: Any) -> Features:
    return measure(random_conv(1, 8), batches(*pictures(n, seed)), n, **options)


def test_the_suite_has_every_metric_named_after_the_extractor() -> None:
    found = suite(features(200), features(200, seed=1), CFG.model_copy(update={"kmmd_bandwidth": 0.1}), "random_conv")
    expected = {*PAIRED, "spread", "fid", "intra_fid_max", "kid_std", "is", "is_std", "kmmd_fixed"}
    assert set(found) == {f"{name}_random_conv" for name in expected}
    assert all(torch.isfinite(torch.tensor(list(found.values()))))


def test_exactly_count_images_are_used() -> None:
    images, labels = pictures(230)
    whole = measure(random_conv(1, 8), batches(images, labels), 120)
    exact = measure(random_conv(1, 8), batches(images[:120], labels[:120], size=120), 120)
    assert whole.count == len(whole.rows) == 120
    torch.testing.assert_close(whole.moments.scatter, exact.moments.scatter, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="120 images came where 121 were to come"):
        measure(random_conv(1, 8), batches(images[:120], labels[:120]), 121)


def test_fid_and_score_see_all_images_and_the_others_the_first_ones() -> None:
    whole, bounded = features(200), features(200, keep=60)
    assert (len(bounded.rows), bounded.count) == (60, 200)
    fake = features(200, seed=1)
    all_of_it, part = suite(whole, fake, CFG, "x"), suite(bounded, fake, CFG, "x")
    assert part["fid_x"] == pytest.approx(all_of_it["fid_x"], rel=1e-9)
    assert part["kid_x"] != all_of_it["kid_x"]


def on_workers(world: int, images: Tensor, labels: Tensor, count: int, size: int) -> list[Any]:
    extractor = random_conv(1, 8)

    def work(worker: Any) -> Any:
        try:
            return measure(extractor, batches(images, labels, size, worker.rank, world), count, ctx=worker)
        except StageFailed as error:
            return error

    return on_threads(world, work)


@pytest.mark.parametrize(("world", "size"), [(2, 50), (3, 40), (4, 64)])
def test_workers_end_with_what_one_has(world: int, size: int) -> None:
    images, labels = pictures(150)
    one = measure(random_conv(1, 8), batches(images, labels), 130)
    for found in on_workers(world, images, labels, 130, size):
        assert torch.equal(found.labels, one.labels)
        torch.testing.assert_close(found.rows, one.rows)
        torch.testing.assert_close(found.moments.scatter, one.moments.scatter, rtol=1e-6, atol=1e-9)
        assert found.score.mean_and_std() == pytest.approx(one.score.mean_and_std(), rel=1e-6)


def test_an_image_that_is_not_finite_is_named_on_every_worker() -> None:
    images, labels = pictures(150)
    broken = images.float() / 127.5 - 1
    broken[97, 0, 3, 3] = torch.nan
    broken[120] = torch.inf
    for error in on_workers(2, broken, labels, 150, 40):
        assert isinstance(error, StageFailed)
        assert "quality: image 97 has pixels or random_conv features that are not finite" in str(error)
    extractor = random_conv(1, 8)
    extractor.network[0].weight.data[0] = torch.inf
    with pytest.raises(StageFailed, match="image 0 "):
        measure(extractor, batches(images, labels), 150)


def test_shuffled_labels_leave_fid_and_raise_intra_fid() -> None:
    images, labels = pictures(400, seed=1)
    real, fake = features(400), measure(random_conv(1, 8), batches(images, labels), 400)
    shuffled = measure(random_conv(1, 8), batches(images, (labels + 1) % 4), 400)
    right, wrong = suite(real, fake, CFG, "x"), suite(real, shuffled, CFG, "x")
    assert wrong["fid_x"] == pytest.approx(right["fid_x"], rel=1e-9)
    assert wrong["intra_fid_x"] > 10 * right["intra_fid_x"]
    assert list(intra_fid(real, fake)) == [0, 1, 2, 3]


def test_one_class_for_all_is_precise_and_recalls_little() -> None:
    images, labels = pictures(400, seed=1)
    only = images[labels == 2]
    collapsed = measure(random_conv(1, 8), batches(only, labels[labels == 2]), 100)
    found, healthy = (suite(features(400), fake, CFG, "x") for fake in (collapsed, features(100, seed=2)))
    assert found["precision_x"] > 0.8
    assert found["recall_x"] < 0.5 < healthy["recall_x"]
    assert found["kid_x"] > 10 * abs(healthy["kid_x"])


def test_classes_can_be_taken_alone() -> None:
    real = features(200)
    two = real.of_classes([1, 3])
    assert two.count == 100
    assert two.class_counts() == {1: 50, 3: 50}
    assert set(suite(two, features(200, seed=1).of_classes([1, 3]), CFG, "x")) == {
        f"{name}_x" for name in (*PAIRED, "spread", "fid", "intra_fid_max", "kid_std")
    }


def test_few_images_take_the_stable_form_and_are_warned_of() -> None:
    real, fake = features(6), features(7, seed=1)
    assert fid(real, fake) == pytest.approx(fid(fake, real), rel=1e-9)
    said = cautions(real, fake, "x")
    assert "fid_x: 6 real images for 8 features" in said[0]
    assert "intra_fid_x: a class has only 1 images" in said[-1]
    assert cautions(features(4000), features(4000), "x") == []
    assert all(torch.isfinite(torch.tensor(list(suite(real, fake, CFG, "x").values()))))


def test_features_survive_a_file(tmp_path: Path) -> None:
    real = features(60, keep=40)
    real.save(tmp_path / "features.safetensors")
    read, fake = Features.load(tmp_path / "features.safetensors"), features(60, seed=1)
    assert suite(read, fake, CFG, "x") == suite(real, fake, CFG, "x")
    assert real_side(read, "x") == real_side(real, "x")
    assert real_side(real, "x")["fid_floor_x"] > 0


def test_a_classifier_gives_the_features_of_its_last_layer_and_knows_labels() -> None:
    torch.manual_seed(0)
    for name, options in (
        ("small_cnn", {"width": 4}),
        ("small_cnn", {"width": 4, "normalisation": [[0.5], [0.2]]}),
    ):
        network = build(name, classes=4, image_channels=1, image_size=8, **options)
        extractor, (images, labels) = classifier(network), pictures(40)
        rows, logits = extractor(images)
        floats = images.float() / 127.5 - 1
        torch.testing.assert_close(logits, network(floats))
        torch.testing.assert_close(rows, network.features(floats))
        assert (extractor.feature_dim, extractor.classes) == (rows.shape[1], 4)
        found = measure(extractor, batches(images, labels), 40)
        assert found.right == int((logits.argmax(1) == labels).sum())
        assert suite(found, found, CFG, "x")["class_accuracy_x"] == 100 * found.right / 40


def test_an_extractor_is_named_by_its_weights() -> None:
    torch.manual_seed(0)
    one = build("small_cnn", classes=4, image_channels=1, image_size=8, width=4)
    same, other = (build("small_cnn", classes=4, image_channels=1, image_size=8, width=4) for _ in range(2))
    same.load_state_dict(one.state_dict())
    assert classifier(one).tag == classifier(same).tag
    assert classifier(one).tag.startswith("classifier@")
    assert len({classifier(one).tag, classifier(other).tag, classifier(one, quantise=False).tag}) == 3


def test_generated_images_are_put_on_grey_levels_as_the_real_ones_are() -> None:
    images, _ = pictures(30)
    floats = images.float() / 127.5 - 1
    assert torch.equal(quantise(floats), images)
    extractor = random_conv(1, 8)
    torch.testing.assert_close(extractor(floats + 0.002)[0], extractor(images)[0])
    extractor.quantise = False
    assert not torch.equal(extractor(floats + 0.002)[0], extractor(images)[0])


def test_an_extractor_in_training_mode_and_autocast_are_refused() -> None:
    extractor, (images, _) = random_conv(1, 8), pictures(10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert extractor(images)[0].dtype == torch.float32
    extractor.network.train()
    with pytest.raises(ValueError, match="training mode"):
        extractor(images)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), file)
    return file


def test_inception_of_torchvision_from_a_file(inception_file: Path) -> None:
    from torchvision.models import inception_v3

    extractor = inception_torchvision(str(inception_file))
    images, _ = pictures(2)
    rows, logits = extractor(images)
    assert rows.shape == (2, 2048)
    network = inception_v3(weights=None, init_weights=False, transform_input=False)
    network.load_state_dict(torch.load(inception_file, weights_only=True))
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    inputs = (images.float() / 255).expand(-1, 3, -1, -1).sub(mean).div(std)
    large = torch.nn.functional.interpolate(inputs, size=(299, 299), mode="bilinear", align_corners=True)
    with torch.no_grad():
        torch.testing.assert_close(logits, network.eval()(large), rtol=1e-3, atol=1e-3)
    assert extractor.tag.startswith("inception_torchvision@")


def test_weights_that_do_not_fit_or_hold_code_are_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    torch.save({"network": SimpleNamespace()}, tmp_path / "code.pth")
    with pytest.raises(UserError, match="does not fit the network"):
        from_weights("inception_torchvision", str(tmp_path / "other.pth"))
    with pytest.raises(UserError, match="could run code when read, and was refused"):
        from_weights("inception_torchvision", str(tmp_path / "code.pth"))
    with pytest.raises(UserError, match="does not exist"):
        from_weights("inception_torchvision", str(tmp_path / "nowhere.pth"))
    with pytest.raises(UserError, match=r"unknown feature extractor 'vgg' \(known: classifier, inception_torchvision"):
        from_weights("vgg", "x")
    with pytest.raises(UserError, match="needs a file with its weights"):
        from_weights("clip", None)


@pytest.mark.parametrize(
    ("name", "package", "missing"),
    [("clip", "open_clip", r"gankd\[clip\]"), ("inception_tf_ported", "torch_fidelity", "torch-fidelity")],
)
def test_packages_that_are_not_there_are_named(name: str, package: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.feature_extractor_inceptionv3", None)
    with pytest.raises(UserError, match=f"pip install .*{missing}"):
        from_weights(name, "weights.pth")


def test_an_extractor_and_its_weights_belong_together() -> None:
    with pytest.raises(UserError, match=r"set quality\.weights"):
        QualityConfig(extractor="clip")
    with pytest.raises(UserError, match=r"quality\.extractor, which is not set"):
        QualityConfig(weights="x.pth")


def context(tmp_path: Path, world: int = 1, rank: int = 0) -> Any:
    from gankd.context import Context
    from gankd.store import Store

    return Context("quality", "key", 7, tmp_path, Store(tmp_path), torch.device("cpu"), rank=rank, world_size=world)


class Painter(Generative):
    """A generator of flat images: the latent decides the brightness, the label the sign of a stripe."""

    dim_z, classes = 2, 3

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        level = z[:, :1].tanh().view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()
        level[:, :, :, 0] = labels.view(-1, 1, 1).float() / 2 - 1
        return level


@pytest.mark.parametrize(("distribution", "count"), [("real", 40), ("real", 100), ("uniform", 40), ("uniform", 41)])
def test_labels_follow_the_real_ones_or_are_equal_in_number(distribution: str, count: int) -> None:
    labels = torch.tensor([0] * 30 + [2] * 10)
    real = measure(random_conv(1, 8), batches(pictures(40)[0], labels), 40)
    drawn = generated_labels(real, count, generator_of(0), distribution)
    counts = drawn.bincount(minlength=3).tolist()
    assert len(drawn) == count
    assert counts[1] == 0
    if distribution == "uniform":
        assert abs(counts[0] - counts[2]) <= 1
    else:
        assert counts[0] == pytest.approx(0.75 * count, abs=0.15 * count)
    assert drawn.tolist() != sorted(drawn.tolist())


def test_a_generator_is_scored_the_same_by_any_number_of_workers(tmp_path: Path) -> None:
    real, extractor = features(60), random_conv(1, 8)
    cfg = QualityConfig(images=90, batch=20)
    one = score_network(context(tmp_path), cfg, Painter(), extractor, real)

    def work(worker: Any) -> dict[str, float]:
        ctx = context(tmp_path, 2, worker.rank)
        ctx.gather, ctx.sum = worker.gather, worker.sum
        return score_network(ctx, cfg, Painter(), extractor, real)

    found = on_threads(2, work)
    assert found[0] == found[1] == pytest.approx(one, rel=1e-6, abs=1e-9)


def test_a_generator_of_some_classes_is_asked_by_the_numbers_of_the_data(tmp_path: Path) -> None:
    images = Renumbered(Painter(), [3, 5], "cpu").sample(4, torch.tensor([5, 3, 3, 5]), generator_of(0))
    assert torch.equal(images, Painter().sample(4, torch.tensor([1, 0, 0, 1]), generator_of(0)))


def test_fewer_than_two_real_images_are_refused(tmp_path: Path) -> None:
    images, labels = pictures(1)
    with pytest.raises(UserError, match="at least 2 real images, and there is 1"):
        real_features(context(tmp_path), CFG, Split(images.numpy(), labels.numpy()), random_conv(1, 8))


def test_a_file_of_weights_is_looked_into_before_anything_trains(tmp_path: Path) -> None:
    from gankd.data import DataConfig, load
    from gankd.stages.checks import check_quality

    torch.save({"network": SimpleNamespace()}, tmp_path / "code.pth")
    digits = load(DataConfig(name="digits"))
    cfg = QualityConfig(extractor="inception_torchvision", weights=str(tmp_path / "code.pth"))
    with pytest.raises(UserError, match="was refused"):
        check_quality("quality", cfg, digits)
    check_quality("quality", CFG, digits)


def test_a_generator_that_makes_no_numbers_ends_its_stage(tmp_path: Path) -> None:
    class Broken(Painter):
        def forward(self, z: Tensor, labels: Tensor) -> Tensor:
            return super().forward(z, labels).where(labels.view(-1, 1, 1, 1) != 2, torch.nan)

    real = features(60)
    with pytest.raises(StageFailed, match=r"image \d+ has pixels or random_conv features that are not finite"):
        score_network(context(tmp_path), QualityConfig(images=90, batch=20), Broken(), random_conv(1, 8), real)


class Plain(Generative):
    """A generator that takes no labels."""

    dim_z, classes = 2, None

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return z[:, :1].tanh().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


def test_of_images_without_labels_nothing_is_measured_by_class(tmp_path: Path) -> None:
    real, cfg = features(60), QualityConfig(images=90, batch=20)
    by_class = {f"{name}_random_conv" for name in ("intra_fid", "intra_fid_max", "spread", "class_accuracy")}
    one = score_network(context(tmp_path), cfg, Painter(), random_conv(1, 8), real)
    other = score_network(context(tmp_path), cfg, Plain(), random_conv(1, 8), real)
    assert one.keys() - other.keys() == by_class & one.keys() != set()
    assert other["fid_random_conv"] > 0
    fake = generated_features(context(tmp_path), cfg, Plain(), random_conv(1, 8), torch.zeros(90, dtype=torch.long))
    assert fake.unlabelled
    assert not any("intra_fid" in sentence for sentence in cautions(real, fake, "random_conv"))
