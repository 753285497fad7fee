"""The stages of Squeeze & Span: the generator, the pool that it fills, the encoder that learns from it, the linear probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gankd import models
from gankd.config import Section
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.engine import train
from gankd.errors import UserError
from gankd.stages.classifier import load_network
from gankd.stages.generator import fit_gan, gan_training
from gankd.store.artifact import Artifact
from methods.squeeze_span.config import EncoderConfig, GeneratorConfig, LinearConfig, PoolConfig, form
from methods.squeeze_span.encoding import Encoding
from methods.squeeze_span.linear import fit_linear, right_answers
from methods.squeeze_span.neighbours import accuracy_of_neighbours
from methods.squeeze_span.networks import (
    Concatenated,
    SqueezeModule,
    Standardised,
    Student,
    mlp,
    simsiam_heads,
)
from methods.squeeze_span.pool import FEATURES, LATENTS, Pool, Rows, fill, statistics
from methods.squeeze_span.pretraining import Pretraining, Source, steps_an_epoch
from methods.squeeze_span.teacher import Teacher

DISCRIMINATOR = "discriminator"  # the folder of a generator's artifact that holds it
REFERENCE_IMAGES = 256  # with which a discriminator that compares images compares one, see `DiscriminatorEncoder`
RECALIBRATION_BATCH = 500
ENCODING_LAYERS = 2  # of the head of latent encoding


def train_generator(ctx: Context, cfg: GeneratorConfig, data: DataSet, feature_classifier: Artifact) -> dict[str, float]:
    """The generator that teaches: trained here, or read from a file. Makes it, and its discriminator in a folder of its own."""
    if cfg.checkpoint:
        from gankd.models.stylegan2_import import read_stylegan2

        found = read_stylegan2(cfg.checkpoint)
        ctx.note(f"generator: {found.matched}")
        models.save(found.generator, ctx.out)
        if found.discriminator is not None:
            models.save(found.discriminator, ctx.out / DISCRIMINATOR)
        return {"parameters": float(sum(p.numel() for p in found.generator.parameters())), "step": 0.0}
    generator, discriminator = build_networks(cfg, data)
    training = gan_training(ctx, cfg, cfg.g_lr, generator, discriminator, data.train)
    metrics = fit_gan(ctx, training, feature_classifier, data.val)
    models.save(training.discriminator, ctx.out / DISCRIMINATOR)
    if generator.classes is not None:
        ctx.note("generator: class-conditional, so the encoder's teacher has seen the labels")
    return metrics


def build_networks(cfg: GeneratorConfig, data: DataSet) -> tuple[Any, Any]:
    """Generator and discriminator of `cfg` for the images of `data`, freshly initialised."""
    common: dict[str, Any] = {"image_size": data.image_size, "image_channels": data.image_channels}
    if cfg.network == "biggan":
        common |= {"classes": data.classes, "width": cfg.width}
        generator = models.build("biggan", dim_z=cfg.dim_z, shared_dim=cfg.shared_dim, **common)
        return generator, models.build("biggan_discriminator", **common)
    common |= {"channel_base": cfg.channel_base, "channel_max": cfg.channel_max}
    generator = models.build(
        "stylegan2", dim_z=cfg.dim_z, dim_w=cfg.dim_w, mapping_layers=cfg.mapping_layers, **common
    )  # fmt: skip
    return generator, models.build(
        "stylegan2_discriminator", architecture=cfg.discriminator, mbstd_group=cfg.mbstd_group, **common
    )  # fmt: skip


def draw_pool(ctx: Context, cfg: PoolConfig, data: DataSet, gan: Artifact) -> dict[str, float]:
    """The pool of generated images. Makes images.npy, features.npy, latents.npy: see `Rows`."""
    teacher = Teacher(load_network(gan, ctx.device), ctx.device)
    fill(ctx, teacher, cfg.images, cfg.batch)
    return {"images": float(cfg.images), "features": float(sum(teacher.widths))}


def train_encoder(
    ctx: Context, cfg: EncoderConfig, data: DataSet, gan: Artifact | None = None, pool: Artifact | None = None
) -> dict[str, float]:
    """The encoder, by its recipe. Makes a saved network: images in [-1, 1] to features."""
    learner = form(cfg, "learner")
    if learner.startswith("discriminator"):
        assert gan is not None
        return as_it_is(ctx, cfg, data, discriminator_encoder(data, gan, multi=learner.endswith("multi")))
    return fit_encoder(ctx, cfg, data, gan, pool)


def train_control(ctx: Context, cfg: EncoderConfig, data: DataSet) -> dict[str, float]:
    """The control: as many steps on as many images, all real, by VICReg, at the same rate and weights."""
    return fit_encoder(ctx, cfg.model_copy(update={"recipe": "vicreg_real"}), data)


def fit_encoder(
    ctx: Context, cfg: EncoderConfig, data: DataSet, gan: Artifact | None = None, pool: Artifact | None = None
) -> dict[str, float]:
    """Train an encoder by a learner of this package, and save it."""
    backbone = build_encoder(cfg, data)
    if not cfg.trains:
        return as_it_is(ctx, cfg, data, backbone)
    teacher, generated = None, None
    if gan is not None and cfg.generated:
        teacher = Teacher(load_network(gan, ctx.device), ctx.device)
        generated = source(ctx, cfg, teacher, pool, steps_an_epoch(cfg, data))
    training = pretraining(ctx, cfg, data, backbone, teacher, generated, pool)
    metrics = train(
        ctx, training, steps=training.steps, batch=cfg.batch, evaluate_every=max(1, -(-training.steps // cfg.evaluations))
    )
    if cfg.recalibrate:
        recalibrate(backbone, Resident(data.train, ctx.device))
        metrics = training.evaluate(training.steps)
    return keep_encoder(ctx, backbone) | metrics


def as_it_is(ctx: Context, cfg: EncoderConfig, data: DataSet, encoder: Any) -> dict[str, float]:
    """Keep an encoder that is not trained, with what its nearest neighbours say."""
    encoder.to(ctx.device)
    real, held_out = Resident(data.train, ctx.device), Resident(data.val, ctx.device)
    found = accuracy_of_neighbours(encoder, real, held_out, data.classes or 0, cfg.neighbours, cfg.temperature)
    return keep_encoder(ctx, encoder) | {"val_accuracy": found}


def build_encoder(cfg: EncoderConfig, data: DataSet) -> Any:
    """The encoder of `cfg` for the images of `data`, freshly initialised."""
    common: dict[str, Any] = {"image_channels": data.image_channels, "image_size": data.image_size}
    if cfg.normalisation:
        common["normalisation"] = [list(numbers) for numbers in cfg.normalisation]
    if cfg.network.startswith("resnet18"):
        stem = "cifar" if cfg.network.endswith("cifar") else "imagenet"
        return models.build("resnet18_encoder", stem=stem, **common)
    return models.build("encoder", network=cfg.network, **common, **({"width": cfg.width} if cfg.width else {}))


def pretraining(
    ctx: Context, cfg: EncoderConfig, data: DataSet, backbone: Any, teacher: Teacher | None, generated: Source | None,
    pool: Artifact | None,
) -> Pretraining:  # fmt: skip
    """The training of `backbone` before its first step."""
    width, learner = backbone.feature_dim, form(cfg, "learner")
    if learner == "simsiam":
        student = Student(backbone, *simsiam_heads(width, cfg.dim, cfg.simsiam_layers, cfg.predictor_width))
        return Pretraining(ctx, cfg, data, student, generated)
    if learner == "encode":
        assert teacher is not None
        outputs = teacher.generator.num_ws * teacher.latent_width
        student = Student(backbone, mlp(width, width, outputs, ENCODING_LAYERS, last_bias=False))
        encoding = Encoding(ctx, cfg, data, student, generated)
        encoding.generator = teacher.generator
        return encoding
    dim, squeeze = cfg.dim, None
    if learner == "squeeze":
        assert teacher is not None
        squeeze, dim = squeeze_module(ctx, cfg, teacher, pool)
    student = Student(backbone, mlp(width, width, dim, cfg.head_layers, last_bias=False))
    return Pretraining(ctx, cfg, data, student, generated, squeeze)


def squeeze_module(ctx: Context, cfg: EncoderConfig, teacher: Teacher, pool: Artifact | None) -> tuple[nn.Module, int]:
    """What stands on the generator's side, and the width of what it gives."""
    latent, depth = form(cfg, "teacher") == "latent", form(cfg, "squeeze_depth")
    widths = [teacher.latent_width] if latent else teacher.widths
    squeeze: nn.Module = SqueezeModule(widths, cfg.squeeze_width, cfg.dim, depth) if depth else Concatenated()
    if cfg.standardise and pool is not None:
        squeeze = Standardised(squeeze, widths, *statistics(pool.array(LATENTS if latent else FEATURES), ctx.device))
    return squeeze, cfg.dim if depth else sum(widths)


def source(ctx: Context, cfg: EncoderConfig, teacher: Teacher, pool: Artifact | None, steps_an_epoch: int) -> Source:
    """What gives the generated images of a step: the pool, or the generator itself."""
    if cfg.fresh or pool is None:
        return lambda n, step: teacher.generate(n, ctx.rng(step, "fresh")).part(ctx.rank, ctx.world_size)
    return Pool(ctx, Rows.of(pool), teacher.widths, cfg.renew, teacher, steps_an_epoch).draw


def discriminator_encoder(data: DataSet, gan: Artifact, *, multi: bool) -> Any:
    """The generator's discriminator as an encoder."""
    if not (gan.path / DISCRIMINATOR).is_dir():
        raise UserError("the generator's file holds no discriminator, of which this recipe takes the features")
    discriminator = models.load(gan.path / DISCRIMINATOR)
    encoder = models.build(
        "discriminator_encoder", discriminator=discriminator.recipe, multi=multi,
        image_channels=data.image_channels, image_size=data.image_size,
    )  # fmt: skip
    encoder.discriminator.load_state_dict(discriminator.state_dict())
    images, _ = Resident(data.train).take(torch.arange(min(REFERENCE_IMAGES, len(data.train))))
    encoder.lay_down(images)
    return encoder


@torch.no_grad()
def recalibrate(encoder: nn.Module, real: Resident) -> None:
    """Measure the batch norms' running statistics anew: their mean over the real training images, as they are."""
    norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    encoder.train()
    for index in torch.arange(len(real)).tensor_split(-(-len(real) // RECALIBRATION_BATCH)):  # of one size, but for one image
        encoder(real.take(index)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def keep_encoder(ctx: Context, encoder: Any) -> dict[str, float]:
    """Save it. Its numbers compare with those of encoders of the same architecture."""
    models.save(encoder, ctx.out)
    ctx.basis[""] = {"network": encoder.recipe}
    return {"parameters": float(sum(p.numel() for p in encoder.parameters()))}


def fit_probe(ctx: Context, cfg: LinearConfig, data: DataSet, **encoder: Artifact) -> dict[str, float]:
    """A linear classifier on the one encoder given. Makes the two as one network, images to logits."""
    (made,) = encoder.values()
    probe, rate = fitted(ctx, cfg, data, load_network(made, ctx.device))
    models.save(probe, ctx.out)
    ctx.basis[""] = {"network": probe.recipe}
    return right_answers(probe, Resident(data.val, ctx.device), "val") | {"lr": rate, "features": float(probe.linear.in_features)}


def fitted(ctx: Context, cfg: LinearConfig, data: DataSet, network: Any) -> tuple[Any, float]:
    """A linear probe on an encoder, and the learning rate that was best on the validation part."""
    head, rate = fit_linear(ctx, cfg, data, network).best()
    probe = models.build(
        "linear_probe", encoder=network.recipe, classes=data.classes,
        image_channels=data.image_channels, image_size=data.image_size,
    ).to(ctx.device)  # fmt: skip
    probe.encoder.load_state_dict(network.state_dict())
    probe.linear.load_state_dict(head.state_dict())
    return probe.eval(), rate


def test_probe(ctx: Context, cfg: Section, data: DataSet, **probe: Artifact) -> dict[str, float]:
    """A test stage: top-1 and top-5 of the one linear probe given, on the test part."""
    (made,) = probe.values()
    network: Any = load_network(made, ctx.device)
    ctx.basis[""] = {"network": network.recipe}
    return right_answers(network, Resident(data.test, ctx.device), "test")


def measure_encoder(ctx: Context, network: Any, data: DataSet, config: Mapping[str, Any]) -> dict[str, float]:
    """What `gankd evaluate` says of a registered encoder: a linear probe on the training part, beside nearest neighbours.

    `config`: the knobs of the sweep that made it, by their dotted names. Top-1 and top-5 in percent, on validation and test.
    """
    cfg = LinearConfig(**{name.removeprefix("linear."): value for name, value in config.items() if name.startswith("linear.")})
    probe, _ = fitted(ctx, cfg, data, network)
    k, temperature, training = config["encoder.neighbours"], config["encoder.temperature"], Resident(data.train, ctx.device)
    found: dict[str, float] = {}
    for part, split in (("val", data.val), ("test", data.test)):
        held_out = Resident(split, ctx.device)
        found |= right_answers(probe, held_out, part)
        by_neighbours = accuracy_of_neighbours(probe.encoder, training, held_out, data.classes or 0, k, temperature)
        found[f"{part}_neighbours"] = by_neighbours
    return found
