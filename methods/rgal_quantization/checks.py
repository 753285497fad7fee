"""What can be known to be wrong before anything is trained."""

from __future__ import annotations

from gankd.config import Section, Selection
from gankd.data import DataSet
from gankd.errors import UserError
from gankd.stages.checks import check_classes
from gankd.stages.sections import ClassifierConfig
from methods.rgal.checks import check_layers, check_pool
from methods.rgal.config import SynthesisConfig
from methods.rgal_quantization.config import QuantizedConfig


def check_quantizer(name: str, cfg: Section, data: DataSet, teacher: ClassifierConfig) -> None:
    """The data has classes, and every layer of the teacher can be quantized."""
    check_classes(name, cfg, data)
    from gankd.stages.classifier import build_classifier
    from methods.rgal_quantization import networks

    networks.check_layers(build_classifier(teacher, data))


def check_rounds(name: str, cfg: QuantizedConfig, data: DataSet, synthesis: SynthesisConfig | Selection) -> None:
    """The generator can make images of this size, and the pool fits."""
    if data.image_size % 4:
        raise UserError(
            f"synthesis makes images of 8, 12, 16, ... px, but data set {data.name!r} has {data.image_size} px; "
            "set data.image_size"
        )
    check_pool(name, cfg, data)


def check_student(name: str, cfg: QuantizedConfig, data: DataSet, synthesis: SynthesisConfig, teacher: ClassifierConfig) -> None:
    """As `check_rounds`, and the related blocks exist."""
    check_rounds(name, cfg, data, synthesis)
    if synthesis.relates:
        check_layers("synthesis", synthesis.start_layer, teacher.network, data)
    if cfg.striplet and "features" in cfg.striplet_feature:
        check_layers(name, cfg.start_layer, teacher.network, data)
