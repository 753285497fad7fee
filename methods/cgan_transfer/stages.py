"""The stages: the GAN of the old classes, stage BN, stage FT, and the two controls without the method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from gankd import models
from gankd.config import Section
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.metrics.suite import real_side
from gankd.models.biggan_transfer import SIDES, Part, TransferGenerator, take_over, with_fresh_classes
from gankd.stages.evaluation import class_grid
from gankd.stages.gan_batch import Seen, Terms
from gankd.stages.generator import EvaluatedTraining, build_gan, fit_gan, gan_training
from gankd.stages.quality import REAL_STATISTICS, extractor_of, note_basis, of_classes, real_features
from gankd.stages.sections import QualityConfig
from gankd.store.artifact import Artifact
from methods.cgan_transfer.config import BnConfig, FtConfig, PretrainConfig, TaskConfig, TrainingConfig
from methods.cgan_transfer.importing import import_networks
from methods.cgan_transfer.losses import combination_l1, residual_l2
from methods.cgan_transfer.moments import load_moments, save_moments
from methods.cgan_transfer.pictures import borrowing, interpolation
from methods.cgan_transfer.start import start_scores
from methods.cgan_transfer.task import new_images, old_and_new, renumbered

LIVE, DISCRIMINATOR = "live", "discriminator"  # folders of an artifact: what a later stage trains on
PENALISED: tuple[Part, Part] = ("combination", "residual")


def pretrain(
    ctx: Context, cfg: PretrainConfig, data: DataSet, task: TaskConfig, feature_classifier: Artifact
) -> dict[str, float]:
    """The GAN of the old classes: trained on all their images, or the user's. Makes its averaged generator, and D."""
    old, _ = old_and_new(task, data, pretrained=cfg.checkpoint is not None)
    if cfg.checkpoint:
        return _imported(ctx, cfg, data)
    gan = gan_training(ctx, cfg, cfg.g_lr, *build_gan(cfg, of_these(data, old)), renumbered(data.train, old))
    return finish(ctx, gan, fit_gan(ctx, gan, feature_classifier, data.val, old))


def measure_new(
    ctx: Context, cfg: QualityConfig, data: DataSet, task: TaskConfig, feature_classifier: Artifact
) -> dict[str, float]:
    """What the feature classifier says of the new classes' validation images, once. Makes features.safetensors."""
    _, new = old_and_new(task, data, pretrained=True)
    extractor = extractor_of(feature_classifier, ctx.device)
    real = real_features(ctx, cfg, of_classes(data.val, new), extractor)
    real.save(ctx.out / REAL_STATISTICS)
    note_basis(ctx, cfg, extractor, real)
    return real_side(real, extractor.name)


def train_bn(
    ctx: Context, cfg: BnConfig, data: DataSet, task: TaskConfig, training: TrainingConfig,
    pretrain: Artifact, feature_classifier: Artifact,
) -> dict[str, float]:  # fmt: skip
    """Stage BN: only combinations and residuals (and, if asked for, old pairs and latent layers) are trained."""
    images, new = new_images(task, data)
    old, discriminator = pretrained(pretrain, ctx)
    generator = transferred(ctx, cfg, images, old, discriminator)
    ctx.image("start", class_grid(generator.eval(), ctx))
    train_only(generator, *trained_in_bn(cfg), score_bias=cfg.score_bias)
    discriminator = fresh_discriminator(discriminator, len(new), training)
    gan = gan_training(
        ctx, training.lasting(bn_steps(cfg.share, training)), cfg.g_lr, generator, discriminator, images,
        generator_terms=penalties(generator, cfg.comb_l1_scale, cfg.res_l2_scale),
    )  # fmt: skip
    return show(ctx, finish(ctx, gan, fit_gan(ctx, gan, feature_classifier, data.val, new)))


def train_ft(
    ctx: Context, cfg: FtConfig, data: DataSet, task: TaskConfig, training: TrainingConfig,
    bn: Artifact, feature_classifier: Artifact,
) -> dict[str, float]:  # fmt: skip
    """Stage FT: everything but combinations and old pairs is trained, from where BN ended, with its Adam moments."""
    images, new = new_images(task, data)
    knobs = BnConfig(**bn.config)
    before = bn_steps(knobs.share, training)
    generator = all_but_combinations(models.load(bn.path / LIVE).to(ctx.device), knobs)
    discriminator = freeze_blocks(models.load(bn.path / DISCRIMINATOR).to(ctx.device), training)
    gan = gan_training(
        ctx, training.lasting(training.steps - before), cfg.g_lr, generator, discriminator, images, start=before,
        generator_terms=penalties(generator, knobs.comb_l1_scale, knobs.res_l2_scale),
    )  # fmt: skip
    load_moments(gan, bn.path)
    return show(ctx, finish(ctx, gan, fit_gan(ctx, gan, feature_classifier, data.val, new)))


def train_finetune(
    ctx: Context, cfg: FtConfig, data: DataSet, task: TaskConfig, training: TrainingConfig,
    pretrain: Artifact, feature_classifier: Artifact,
) -> dict[str, float]:  # fmt: skip
    """The control: all of the pretrained GAN is trained on the new classes, with fresh class embeddings."""
    images, new = new_images(task, data)
    old, discriminator = pretrained(pretrain, ctx)
    generator: Any = with_fresh_classes(old, len(new)).to(ctx.device).requires_grad_(True)
    ctx.image("start", class_grid(generator.eval(), ctx))
    gan = gan_training(ctx, training, cfg.g_lr, generator, fresh_discriminator(discriminator, len(new), training), images)
    return finish(ctx, gan, fit_gan(ctx, gan, feature_classifier, data.val, new))


def train_scratch(
    ctx: Context, cfg: Section, data: DataSet, task: TaskConfig, training: TrainingConfig, pretrain: PretrainConfig,
    feature_classifier: Artifact,
) -> dict[str, float]:  # fmt: skip
    """The control: the same networks on the new classes' images alone, with pretraining's learning rates."""
    images, new = new_images(task, data)
    networks = build_gan(pretrain, of_these(data, new))
    gan = gan_training(ctx, training.lasting(training.steps, d_lr=pretrain.d_lr), pretrain.g_lr, *networks, images)
    return finish(ctx, gan, fit_gan(ctx, gan, feature_classifier, data.val, new))


def finish(ctx: Context, gan: EvaluatedTraining, metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave what a later stage goes on from: the live networks and Adam's moments."""
    models.save(gan.generator, ctx.out / LIVE)
    models.save(gan.discriminator, ctx.out / DISCRIMINATOR)
    save_moments(gan, ctx.out)
    return {**metrics, **parameters(gan.generator)}


def _imported(ctx: Context, cfg: PretrainConfig, data: DataSet) -> dict[str, float]:
    generator, discriminator, _ = import_networks(cfg, data)
    ctx.image("sample_grid", class_grid(generator.to(ctx.device), ctx))
    models.save(generator, ctx.out)
    models.save(discriminator, ctx.out / DISCRIMINATOR)
    return parameters(generator)


def all_but_combinations(generator: Any, knobs: BnConfig) -> Any:
    """Let gradients reach everything but combinations and old pairs, and residuals where there are none."""
    kept = {name for name, _ in generator.parts("combination", "base")}
    kept |= {name for name, _ in generator.parts("residual")} if knobs.residual == "none" else set()
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_(name not in kept)
    return generator


def of_these(data: DataSet, classes: list[int]) -> DataSet:
    """`data` as a set of these classes only, for what builds networks."""
    names = tuple(data.class_names[number] for number in classes)
    return replace(data, train=renumbered(data.train, classes), classes=len(classes), class_names=names)


def pretrained(artifact: Artifact, ctx: Context) -> tuple[Any, Any]:
    """Generator and discriminator that the stage `pretrain` made."""
    return models.load(artifact.path).to(ctx.device), models.load(artifact.path / DISCRIMINATOR).to(ctx.device)


def transferred(ctx: Context, cfg: BnConfig, images: Split, old: Any, discriminator: Any) -> TransferGenerator:
    """The transfer generator in its initial state."""
    classes = int(images.labels.max()) + 1
    own = {key: value for key, value in old.recipe.items() if key not in ("name", "classes", "shared_dim")}
    generator: TransferGenerator = models.build(
        "biggan_transfer", **own, old_classes=old.classes, classes=classes, variant=cfg.variant
    ).to(ctx.device)
    scores = start_scores(ctx, cfg, images, old, discriminator)
    take_over(generator, old, scores, residual="random" if cfg.residual == "random" else "zero")
    if not cfg.score_bias:
        for norm in generator.norms():
            for side in SIDES:
                nn.init.zeros_(norm.layer("combination", side).bias)
    return generator


def fresh_discriminator(discriminator: Any, classes: int, training: TrainingConfig) -> Any:
    """The pretrained discriminator with a fresh projection for the new classes."""
    device = next(discriminator.parameters()).device
    return freeze_blocks(with_fresh_classes(discriminator, classes).to(device), training)


def freeze_blocks(discriminator: Any, training: TrainingConfig) -> Any:
    """FreezeD (Mo et al. 2020): the first blocks stay as pretrained."""
    for block in discriminator.blocks[: training.d_frozen_blocks]:
        block.requires_grad_(False)
    return discriminator


def bn_steps(share: float, training: TrainingConfig) -> int:
    """Steps of stage BN; the rest are FT's."""
    return round(share * training.steps)


def trained_in_bn(cfg: BnConfig) -> Iterator[Part]:
    yield "combination"
    if cfg.residual != "none":
        yield "residual"
    if cfg.train_base:
        yield "base"
    if cfg.train_latent:
        yield "latent"


def train_only(generator: TransferGenerator, *parts: Part, score_bias: bool = True) -> None:
    """Let gradients reach these parts of the new batch norms and nothing else."""
    generator.requires_grad_(False)
    for name, parameter in generator.parts(*parts):
        parameter.requires_grad_(score_bias or ".comb_layer_" not in name or not name.endswith(".bias"))


def penalties(generator: TransferGenerator, l1_scale: float, l2_scale: float) -> Terms:
    """The regularisers of what is being trained, as terms of the generator's loss; a frozen combination has a constant one."""
    combinations, residuals = ([p for _, p in generator.parts(part) if p.requires_grad] for part in PENALISED)

    def terms(seen: Seen) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if combinations and l1_scale:
            found["loss_comb_l1"] = l1_scale * combination_l1(combinations)
        if residuals and l2_scale:
            found["loss_res_l2"] = l2_scale * residual_l2(residuals)
        return found

    return terms


def show(ctx: Context, metrics: dict[str, float]) -> dict[str, float]:
    """Pictures of the generator that is kept: what its classes borrow, and the way from one to the next."""
    generator = models.load(ctx.out).to(ctx.device)
    ctx.image("borrowing", borrowing(generator))
    if generator.classes > 1:
        ctx.image("interpolation", interpolation(generator, ctx))
    return metrics


def parameters(generator: nn.Module) -> dict[str, float]:
    """Parameters of the generator, and those of them that were trained."""
    return {
        "parameters": float(sum(p.numel() for p in generator.parameters())),
        "parameters_trained": float(sum(p.numel() for p in generator.parameters() if p.requires_grad)),
    }
