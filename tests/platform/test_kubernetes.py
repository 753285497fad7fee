"""`kubernetes/`: the manifest keeps to KubeRay's schema and asks for commands that there are; the image holds what they need."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from gankd import cli
from gankd.sweep.plan import prepare
from gankd.sweep.request import Resources, SweepRequest
from tests.conftest import ROOT

JOB = yaml.safe_load((ROOT / "kubernetes" / "rayjob.yaml").read_text())
CONTAINERFILE = ROOT / "kubernetes" / "Containerfile"
SCHEMA = yaml.safe_load((ROOT / "tests" / "fixtures" / "kubernetes" / "rayjob.yaml").read_text())
RAY = re.search(r"^ray==(.+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[1]  # type: ignore[index]


def strict(schema: Any) -> Any:
    """The schema, refusing keys that it does not name, as `kubectl --validate=strict` does."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {} if "additionalProperties" in schema or schema.get("type") != "object" else {"additionalProperties": False}
    return {key: strict(value) for key, value in schema.items()} | closed


def problems(job: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(strict(SCHEMA))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(job["spec"])]


def test_the_manifest_keeps_to_the_schema() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert problems(JOB) == []


def worker(job: Any) -> Any:
    return job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: job["spec"].update(entryPoint="python"),
        lambda job: job["spec"].update(backoffLimit="2"),
        lambda job: job["spec"]["rayClusterSpec"].pop("headGroupSpec"),
        lambda job: job["spec"]["rayClusterSpec"]["authOptions"].update(mode="on"),
        lambda job: worker(job).pop("maxReplicas"),
        lambda job: worker(job).update(rayStartParams={"num-cpus": 0}),
        lambda job: worker(job)["template"]["spec"]["containers"][0].pop("name"),
        lambda job: worker(job)["template"]["spec"]["containers"][0]["resources"]["limits"].update(memory="32 GB"),
        lambda job: worker(job)["template"]["spec"]["containers"][0].update(env=[{"value": "x"}]),
    ],
)
def test_a_mistake_in_it_would_be_seen(spoil: Callable[[Any], Any]) -> None:
    job = copy.deepcopy(JOB)
    spoil(job)
    assert len(problems(job)) == 1


def commands() -> list[list[str]]:
    """The commands of the job's shell script, with the environment's variables put in."""
    (container,) = JOB["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    shell, flag, script = shlex.split(JOB["spec"]["entrypoint"])
    assert (shell, flag) == ("sh", "-c")
    for entry in container["env"]:
        script = script.replace(f"${entry['name']}", entry["value"])
    assert "$" not in script
    lines = (line.strip() for line in script.split(";"))
    return [shlex.split(re.sub(r"^(if|then|else|fi)\b ?(exec )?", "", line)) for line in lines if line != "fi"]


def test_the_job_asks_for_a_sweep_that_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the image runs is parsed as the commands do it; the sweep's own preset, knobs and flags are known."""
    (_, folder), status, resume, new = commands()
    assert folder == re.search(r"^WORKDIR (.+)$", CONTAINERFILE.read_text(), re.MULTILINE)[1]  # type: ignore[index]
    assert status[:2] == ["gankd", "status"]
    assert resume[:2] == new[:2] == ["python", "tune.py"]
    for command, start in ((status, "status"), (resume, "tune"), (new, "tune")):
        arguments = command[2:]
        parser = cli.cli.commands[start]
        with parser.make_context(start, list(arguments)) as context:
            asked = context.params
    assert asked["address"] == "auto"
    assert asked["storage"].startswith("s3://")
    flags = {name: value for name, value in asked.items() if name in SweepRequest.model_fields}
    knobs = dict(assignment.split("=") for assignment in asked["assignments"])
    assert knobs.pop("data.download") == "true"
    smoke = SweepRequest(**{**flags, "overrides": knobs, "preset": "smoke"})
    assert prepare(smoke, str(tmp_path / "runs")).trials > 1
    assert smoke.resources(1) == Resources(1, 1, 1)
    shown = CliRunner().invoke(cli.cli, ["show", flags["method"], "--preset", flags["preset"]])
    assert shown.exit_code == 0, shown.output


def test_one_ray_everywhere() -> None:
    assert JOB["spec"]["rayClusterSpec"]["rayVersion"] == RAY
    (image,) = re.findall(r"^FROM (\S+)$", CONTAINERFILE.read_text(), re.MULTILINE)
    assert image == f"docker.io/rayproject/ray:{RAY}-py311-gpu"


def test_the_image_holds_the_whole_package() -> None:
    text = CONTAINERFILE.read_text()
    copied: list[str] = []
    for line in re.findall(r"^COPY --chown=ray (.+)$", text, re.MULTILINE):
        *sources, target = line.split()
        copied += sources
        assert target == "./" or sources == [target], "a folder is copied to its own name"
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert text.count("\nCOPY ") == len(re.findall(r"^COPY --chown=ray ", text, re.MULTILINE))
    packages = {"platform", "methods", "tune_spaces"}  # as pyproject.toml says what a wheel holds
    assert packages | {"requirements.lock", "pyproject.toml", "tune.py"} <= set(copied)
    known = {"FROM", "WORKDIR", "COPY", "RUN"}
    assert {line.split()[0] for line in text.splitlines() if line and not line.startswith("#")} <= known
