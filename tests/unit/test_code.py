"""The digest of a stage's code: an edited method is another method, an edited comment is not."""

from collections.abc import Mapping

import pytest

from gankd.code import Package
from gankd.registry import find_method, method_names

SOURCES = {
    "lab": "",
    "lab.stages": '''
"""Stages."""
import torch
from gankd.stages.classifier import fit_classifier
from lab import losses
from lab.config import StudentConfig
from lab.losses import distance as apart

SCALE = 2.0


def train_student(ctx, cfg: StudentConfig, data):
    """Train."""
    network = build("tiny_net")
    value = SCALE * losses.kd(cfg.lr) + apart(1)
    return fit_classifier(ctx, cfg, data, network)


def train_other(ctx, cfg, data):
    return {"x": unused()}


def unused():
    return 3
''',
    "lab.losses": """
def kd(x):
    return helper(x) + 1


def helper(x):
    # twice
    return 2 * x


def distance(x):
    return x


def not_called(x):
    return x
""",
    "lab.config": '''
from gankd.config import Section, knob


class StudentConfig(Section):
    """Knobs."""

    lr: float = knob(0.1, "learning rate", origin="ours", gt=0)

    @property
    def steps(self) -> int:
        return 10
''',
    "lab.networks": """
class Tiny:
    width = 3
""",
}
NETWORKS = {"tiny_net": "lab.networks:Tiny"}


def digest(sources: Mapping[str, str] = SOURCES, function: str = "lab.stages:train_student") -> str:
    return Package("lab", NETWORKS, sources.get).code(function).digest


def edited(module: str, before: str, after: str) -> str:
    assert before in SOURCES[module]
    return digest({**SOURCES, module: SOURCES[module].replace(before, after)})


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("lab.losses", "# twice", "# two times"),
        ("lab.stages", '"""Train."""', '"""Train the student, with care."""'),
        ("lab.stages", '    """Train."""\n', ""),
        ("lab.losses", "    return helper(x) + 1", "    return (\n        helper(x)\n        + 1\n    )"),
        ("lab.losses", "def kd(x):", "def kd(x: float) -> float:"),
        ("lab.losses", "def not_called(x):\n    return x", "def not_called(x):\n    return -x"),
        ("lab.stages", "def unused():\n    return 3", "def unused():\n    return 4"),
        ("lab.config", 'knob(0.1, "learning rate"', 'knob(0.2, "rate of learning"'),
        ("lab.losses", "def distance", "def further(x):\n    return 0\n\n\ndef distance"),
    ],
    ids=["comment", "docstring", "no docstring", "format", "annotation", "not called", "other stage", "knob", "new function"],
)
def test_what_changes_no_result_changes_no_digest(module: str, before: str, after: str) -> None:
    assert edited(module, before, after) == digest()


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("lab.stages", "SCALE = 2.0", "SCALE = 3.0"),
        ("lab.losses", "return 2 * x", "return 3 * x"),
        ("lab.losses", "def distance(x):\n    return x", "def distance(x):\n    return -x"),
        ("lab.config", "return 10", "return 20"),
        ("lab.networks", "width = 3", "width = 4"),
        ("lab.stages", "fit_classifier(ctx, cfg, data, network)", "fit_classifier(ctx, cfg, data, None)"),
    ],
    ids=["constant", "called by what is called", "imported under another name", "property of a section", "network", "call"],
)
def test_what_the_stage_runs_is_in_its_digest(module: str, before: str, after: str) -> None:
    assert edited(module, before, after) != digest()


def test_the_platform_counts_by_its_modules() -> None:
    code = Package("lab", NETWORKS, SOURCES.get).code("lab.stages:train_student")
    assert code.platform == {"gankd.config", "gankd.stages.classifier"}
    raised = dict(code.identity(), platform={"gankd.stages.classifier": 2})
    assert raised != code.identity()


def test_a_stage_of_the_platform_counts_by_its_module() -> None:
    code = Package("gankd", {}, SOURCES.get).code("gankd.stages.quality:score_generator")
    assert code.digest == ""
    assert code.platform == {"gankd.stages.quality"}


def test_every_stage_of_a_method_has_its_code_in_its_key() -> None:
    from gankd.code import code_of

    for name in method_names():
        for stage in find_method(name).stages:
            code = code_of(stage.run)
            assert code.digest if stage.run.startswith("methods.") else stage.run.partition(":")[0] in code.platform
