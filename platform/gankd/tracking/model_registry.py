"""The registry of good models in MLflow, and what one reads back from it.

A version holds the network twice: as a pt2 archive (`torch.export`), which any program loads without our code, and as
`network/recipe.json` + `network/model.safetensors`, which `gankd.models.load` builds again for going on training.
Neither is ever unpickled. The alias `champion` moves only to a version that is better on the validation part of the
same data; a version that is not becomes `challenger` (`gankd.tracking.champion`).
"""

from __future__ import annotations

import copy
import importlib.metadata
import inspect
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankd.errors import UserError
from gankd.tracking.champion import give_alias
from gankd.tracking.client import EXISTS, answering, first_line, is_refusal, mlflow_client, on_server, pages, public, quoted
from gankd.tracking.database import alone
from gankd.tracking.tags import in_pieces, whole

if TYPE_CHECKING:
    from torch import Tensor, nn

FILES = ("recipe.json", "model.safetensors")


@dataclass(frozen=True)
class Registered:
    """A version in the registry: its number, the alias it got ('champion' or 'challenger') and why no better one, whether
    it is new."""

    name: str
    version: str
    alias: str
    new: bool
    reason: str = ""


def register(
    uri: str,
    name: str,
    network: Callable[[], tuple[nn.Module, tuple[Tensor, ...]]],
    folder: Callable[[], Path],
    *,
    key: str,
    metrics: Mapping[str, float],
    metric: str,
    mode: str,
    facts: Mapping[str, Any],
    run_id: str,
    shown_by: Sequence[str] = (),
    tags: Mapping[str, Any] | None = None,
) -> Registered:
    """Make the network a version of the registered model `name`, unless the artifact `key` is one already.

    Args:
        uri: tracking URI, of the registry too.
        network: called only for a new version, as is `folder`, so that one that is known is not even fetched; gives the
            trained network, which is exported in eval mode on the CPU, and an example of its inputs, batch first and of
            size 2 (a batch of 1 would be frozen into the export).
        folder: where `recipe.json` and `model.safetensors` of the same network are.
        metrics: values that describe the version; `metric`, a validation metric, decides between champions.
        mode: 'max' or 'min', which values of `metric` are better.
        facts: all that this number depends on (metric, data, extractor, architecture, ...), as JSON can hold it: the alias
            `champion` moves only between versions for which they are equal.
        run_id: the run that made the network; the version points to it.
        shown_by: further runs that show the version among their models; in MLflow's table of runs the first one does.
        tags: what else the version should tell (method, config, the key of its partner).

    Two processes that register the same artifact at the same time make one version of it. Raises UserError when the store
    cannot be reached.
    """
    own = {
        "gankd.key": key,
        "gankd.value": metrics[metric],
        "gankd.mode": mode,
        "gankd.data": facts.get("data", ""),
        "gankd.comparable": json.dumps(facts, sort_keys=True),
    }
    texts = in_pieces({name: str(value) for name, value in {**metrics, **(tags or {}), **own}.items()})
    with patient():
        with answering(uri):
            client = mlflow_client(uri)
            version, new = _of_key(client, name, key), False
        if version is None:
            version, new = _new_version(client, name, key, *network(), folder(), [run_id, *shown_by], texts)
        with answering(uri):
            _show_model(client, version, shown_by)
            reason = give_alias(client, name, version, metrics[metric], facts, mode)
    return Registered(name, str(version.version), "challenger" if reason else "champion", new, reason)


def _of_key(client: Any, name: str, key: str) -> Any:
    """The first version that was made of an artifact, or None."""
    known = client.search_model_versions(f"name = {quoted(name)} AND tags.`gankd.key` = {quoted(key)}")
    return min(known, key=lambda version: int(version.version), default=None)


def _new_version(
    client: Any,
    name: str,
    key: str,
    network: nn.Module,
    example: tuple[Tensor, ...],
    folder: Path,
    runs: Sequence[str],
    tags: dict[str, str],
) -> tuple[Any, bool]:
    """The version of the artifact, and whether this process has made it: another may have been faster."""
    from mlflow.models import Model

    uri, run_id = client.tracking_uri, runs[0]
    with answering(uri):
        experiment_id = client.get_run(run_id).info.experiment_id
        # The table of runs shows a logged model beside its source run alone: the sweep rather than a stage far below it.
        logged = client.create_logged_model(experiment_id, name.rpartition("-")[2], source_run_id=runs[:2][-1], tags=tags)
    meta = Model(artifact_path=logged.artifact_location, model_uuid=logged.model_id, run_id=run_id, model_id=logged.model_id)
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / "model"
        export(network, example, path, meta)
        (path / "network").mkdir()
        for file in FILES:
            shutil.copyfile(folder / file, path / "network" / file)
        with answering(uri):
            client.log_model_artifacts(logged.model_id, str(path))
            client.finalize_logged_model(logged.model_id, "READY")
    with answering(uri):
        return _one_version(client, name, key, logged, run_id, tags)


def _one_version(client: Any, name: str, key: str, logged: Any, run_id: str, tags: dict[str, str]) -> tuple[Any, bool]:
    from mlflow.entities import LoggedModelOutput

    # A server finds the model by its id; without one MLflow would look it up in the process-wide tracking store.
    source = f"models:/{logged.model_id}" if on_server(client.tracking_uri) else logged.artifact_location
    try:
        client.create_registered_model(name)
    except Exception as error:
        if getattr(error, "error_code", None) != EXISTS:
            raise
    with alone(client.tracking_uri):
        first = _of_key(client, name, key)
        if first is None:
            made = client.create_model_version(name, source, run_id, tags=tags, model_id=logged.model_id)
            # A server keeps nobody out, but gives the numbers in their order: of two at once, the later withdraws.
            first = _of_key(client, name, key) or made
            if first.version == made.version:
                client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
                link = json.dumps([{"name": name, "version": made.version}])
                client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": link})
                return made, True
            client.delete_model_version(name, made.version)
    client.delete_logged_model(logged.model_id)
    return first, False


def _show_model(client: Any, version: Any, runs: Iterable[str]) -> None:
    """Make the version's logged model an output of the runs, once each: MLflow's own store refuses a second time."""
    from mlflow.entities import LoggedModelOutput

    try:
        of_version = [model for model in _models_of(client, version.run_id) if model in version.source]
        for run in runs:
            if new := set(of_version) - set(_models_of(client, run)):
                client.log_outputs(run, [LoggedModelOutput(model, 0) for model in new])
    except Exception as error:
        if not is_refusal(error):  # a run that somebody has deleted shows nothing
            raise


def _models_of(client: Any, run_id: str) -> list[str]:
    return [output.model_id for output in client.get_run(run_id).outputs.model_outputs]


def export(network: nn.Module, example: tuple[Tensor, ...], path: Path, meta: Any = None) -> None:
    """Save the network as an MLflow model in pt2 format to `path`: eval mode, CPU, any batch size."""
    import mlflow.pytorch
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    network = copy.deepcopy(network).cpu().eval()
    inputs = tuple(value.detach().cpu() for value in example)
    with torch.no_grad():
        output = network(*inputs)

    def spec(value: Tensor, name: str | None = None) -> TensorSpec:
        array = value.numpy()
        return TensorSpec(array.dtype, (-1, *array.shape[1:]), name)

    names = list(inspect.signature(network.forward).parameters)
    specs: list[Any] = [spec(inputs[0])] if len(inputs) == 1 else [spec(*pair) for pair in zip(inputs, names)]
    arrays = inputs[0].numpy() if len(inputs) == 1 else inputs
    mlflow.pytorch.save_model(
        network,
        path,
        mlflow_model=meta,
        serialization_format="pt2",
        signature=ModelSignature(Schema(specs), Schema([spec(output)])),
        input_example=arrays,
        pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in ("mlflow", "torch")],
    )


def load(uri: str, model: str) -> Path:
    """Folder with `recipe.json` and `model.safetensors` of a registered network, for `gankd.models.load`.

    `model` is `name@alias`, `name/version` or `name` (its champion), with or without `models:/` before it.
    Raises UserError for an unknown name, version or alias, for files that are gone, and when the store cannot be reached.
    """
    with patient():
        with answering(uri):
            client = mlflow_client(uri)
            name, version = _version(client, uri, model)
            place = client.get_model_version_download_uri(name, version)
        from mlflow.artifacts import download_artifacts  # after the client, which keeps MLflow quiet

        try:
            folder = Path(download_artifacts(f"{place}/network", tracking_uri=uri))
        except Exception as error:  # whatever the artifact store raises
            raise UserError(
                f"the files of {name}/{version} cannot be fetched from {place!r} ({first_line(error)}); put them back there, "
                "or take another version"
            ) from error
    if missing := [file for file in FILES if not (folder / file).is_file()]:
        raise UserError(f"{name}/{version} has no {missing[0]!r} in {str(folder)!r}; put it back there, or take another version")
    return folder


def version_tags(uri: str, model: str) -> dict[str, str]:
    """The tags of a version that a sweep has registered, named as in `load`, which raises the same errors."""
    with answering(uri):
        client = mlflow_client(uri)
        name, version = _version(client, uri, model)
        tags = whole(client.get_model_version(name, version).tags)
    if "gankd.method" not in tags:
        raise UserError(
            f"{name}/{version} was not registered by a sweep of gankd (it has no tag 'gankd.method'); take another version"
        )
    return tags


def _version(client: Any, uri: str, model: str) -> tuple[str, str]:
    """Name and version number of a reference. Raises UserError for an unknown one."""
    reference = model.removeprefix("models:/").strip("/")
    name = re.split("[@/]", reference)[0]
    models = {found.name: found for found in pages(client.search_registered_models)}
    if name not in models:
        listed = ", ".join(sorted(models)) or "none yet"
        raise UserError(f"no model {name!r} is registered in {public(uri)!r}; registered are: {listed}")
    aliases = models[name].aliases
    query = f"name = {quoted(name)}"
    versions = {str(v.version) for v in pages(lambda page_token: client.search_model_versions(query, page_token=page_token))}
    reference = reference if reference != name else f"{name}@champion"
    wanted = reference[len(name) + 1 :]
    if wanted not in (aliases if "@" in reference else versions):
        known = [f"{name}@{alias}" for alias in aliases] + [f"{name}/{n}" for n in sorted(versions, key=int)]
        raise UserError(f"the registered model {name!r} has no {wanted!r}; it has {', '.join(known) or 'no version at all'}")
    return name, str(aliases.get(wanted, wanted))


@contextmanager
def patient() -> Iterator[None]:
    """Time for big files: MLflow's usual patience in place of the tracker's."""
    patience = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "120", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
    before = {name: os.environ.get(name) for name in patience}
    os.environ.update(patience)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
