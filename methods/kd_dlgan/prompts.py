"""The sentences that stand for the classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.config import Selection
from methods.kd_dlgan.config import CIFAR10, TEMPLATES, KdConfig, form
from methods.kd_dlgan.teachers import Teacher


def filled(template: str, class_names: Sequence[str]) -> list[str]:
    """A template's sentence for every class."""
    return [template.format(name.replace("_", " ")) for name in class_names]


def sentences(kd: KdConfig | Selection, class_names: Sequence[str]) -> list[list[str]]:
    """K sentences, several times over where several are averaged."""
    if kd.prompt_list:
        return [list(kd.prompt_list)]
    kind = form(kd, "prompts")
    if kind == "cifar10":
        return [filled(TEMPLATES[0], CIFAR10)]
    return [filled(template, class_names) for template in (TEMPLATES if kind == "templates" else TEMPLATES[:1])]


@torch.no_grad()
def text_features(teacher: Teacher, kd: KdConfig | Selection, class_names: Sequence[str]) -> Tensor:
    """T, (K, M): one sentence's features as the teacher gives them; of several, the mean of them at length one."""
    features = [teacher.encode_text(texts) for texts in sentences(kd, class_names)]
    return features[0] if len(features) == 1 else torch.stack([F.normalize(each, dim=1) for each in features]).mean(0)
