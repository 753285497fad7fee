"""The runs of one MLflow experiment, as `gankd.tracking.tracker` uses them: found by tag or made, and written in batches."""

from __future__ import annotations

import base64
import io
import logging
import os
import posixpath
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gankd.tracking.provenance import DataInput, source_tags

METRICS_PER_BATCH, PARAMS_PER_BATCH, PARAM_CHARS, TAG_CHARS = 1000, 100, 500, 5000  # MLflow's limits or below them
THUMBNAIL_PX = 256
# Pages for training, not for GenAI. MLflow 3.17 goes by the address alone (`gankd.tracking.pages`), other versions by this.
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
# Errors by which a server that is there says no to what was sent: sending it again would not help.
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "RESOURCE_ALREADY_EXISTS"}

_log = logging.getLogger(__name__)


class Runs:
    """Runs of one experiment, seen from one sweep. Metrics wait for `flush`; all else is sent at once."""

    def __init__(self, client: Any, experiment_id: str, sweep: str, data: DataInput | None = None) -> None:
        self.client, self.experiment_id, self.sweep, self.data = client, experiment_id, sweep, data
        self._ids: dict[tuple[str, str], str] = {}  # (kind, name) -> run id
        self._params: dict[str, set[str]] = {}
        self._ended: dict[str, int] = {}  # run id -> ms
        self._unsent: dict[str, list[tuple[str, float, int, int]]] = {}  # run id -> (name, value, time, step)
        self._last: dict[tuple[str, str], tuple[int, float]] = {}  # (run id, metric) -> last (step, value) accepted
        self._pictures: set[str] = set()
        self._with_data: set[str] = set()  # ids of runs that have `data` as their input

    @staticmethod
    def open(uri: str, experiment: str, artifact_root: Path, sweep: str, data: DataInput | None = None) -> Runs:
        """Open (make, migrate) the tracking store and the experiment. Raises what MLflow raises."""
        client = mlflow_client(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            on_server = uri.startswith(("http://", "https://", "databricks"))
            place = None if on_server else artifact_root.absolute().as_uri()
            made = client.create_experiment(experiment, artifact_location=place, tags=EXPERIMENT_KIND)
            return Runs(client, made, sweep, data)
        if found.lifecycle_stage != "active":
            raise ValueError(f"experiment {experiment!r} is deleted there; restore it or use another store")
        for tag, kind in EXPERIMENT_KIND.items():
            if tag not in found.tags:
                client.set_experiment_tag(found.experiment_id, tag, kind)
        return Runs(client, found.experiment_id, sweep, data)

    # Finding and making.

    def sweep_run(self, tags: Mapping[str, Any]) -> str:
        """Id of the sweep's own run."""
        return self._find("sweep", self.sweep) or self._make("sweep", self.sweep, self.sweep, tags)

    def trial_run(self, trial: str) -> str:
        """Id of the run of a trial of this sweep."""
        tags = {"mlflow.parentRunId": self.sweep_run({})}
        return self._find("trial", trial) or self._make("trial", trial, trial, tags)

    def stage_run(self, key: str, stage: str = "") -> str:
        """Id of the run of an artifact, whichever sweep made it."""
        tags = {"mlflow.parentRunId": self.sweep_run({})}
        return self._find("stage", key) or self._make("stage", key, stage_title(stage, key), tags)

    def has_ended_stage(self, key: str) -> bool:
        """Whether the artifact has a run, and that run has ended."""
        run = self._find("stage", key)
        return run is not None and self._ended[run] > 0

    def _find(self, kind: str, name: str) -> str | None:
        if (kind, name) not in self._ids:
            tag = {"sweep": "sweep", "trial": "trial", "stage": "key"}[kind]
            query = f"tags.`gankd.kind` = '{kind}' AND tags.`gankd.{tag}` = '{name}'"
            if kind == "trial":
                query += f" AND tags.`gankd.sweep` = '{self.sweep}'"
            found = self.client.search_runs([self.experiment_id], query, max_results=1, order_by=["start_time ASC"])
            if not found:
                return None
            self._remember(kind, name, found[0])
        return self._ids[kind, name]

    def _make(self, kind: str, name: str, title: str, tags: Mapping[str, Any]) -> str:
        own = {"gankd.kind": kind, "gankd.sweep": self.sweep, "gankd.key" if kind == "stage" else f"gankd.{kind}": name}
        texts = {key: str(value)[:TAG_CHARS] for key, value in {**source_tags(), **own, **tags}.items()}
        run = self.client.create_run(self.experiment_id, tags=texts, run_name=title)
        self._remember(kind, name, run)
        return run.info.run_id

    def _remember(self, kind: str, name: str, run: Any) -> None:
        run_id = run.info.run_id
        self._ids[kind, name] = run_id
        self._params[run_id] = set(run.data.params)
        self._ended[run_id] = run.info.end_time or 0
        for metric in run.data.to_proto().metrics:
            self._last[run_id, metric.key] = (metric.step, metric.value)
        inputs = run.inputs.dataset_inputs if run.inputs else []
        if self.data and any((each.dataset.name, each.dataset.digest) == (self.data.name, self.data.digest) for each in inputs):
            self._with_data.add(run_id)

    # Writing.

    def begin(
        self, run_id: str, time_ms: int, params: Mapping[str, Any], tags: Mapping[str, Any], title: str | None = None
    ) -> str:
        """Set the run going (unless it ended after `time_ms`: then this is old news) with params, tags and data; its id."""
        from mlflow.entities import Param

        if time_ms > self._ended[run_id]:
            self.client.update_run(run_id, status="RUNNING", name=title)
        texts = {_name(key): _shorten(str(value), PARAM_CHARS) for key, value in params.items()}
        fresh = [Param(key, text) for key, text in texts.items() if key not in self._params[run_id]]
        for part in _parts(fresh, PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=part)
            self._params[run_id] |= {param.key for param in part}
        self.tag(run_id, tags)
        self._log_data(run_id)
        return run_id

    def _log_data(self, run_id: str) -> None:
        if self.data is None or run_id in self._with_data:
            return
        if self.data.in_all_trials or run_id == self._ids.get(("sweep", self.sweep)):
            self.client.log_inputs(run_id, datasets=[self.data.to_mlflow()])
            self._with_data.add(run_id)

    def tag(self, run_id: str, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        for part in _parts([RunTag(k, str(v)[:TAG_CHARS]) for k, v in tags.items()], PARAMS_PER_BATCH):
            self.client.log_batch(run_id, tags=part)

    def metrics(self, run_id: str, values: Mapping[str, float], time_ms: int, step: int, once: bool = False) -> None:
        """Queue values; with `once`, not those of steps that the run already has."""
        for name, value in values.items():
            last = self._last.get((run_id, _name(name)))
            if once and last and (step < last[0] or (step, float(value)) == last):
                continue
            self._unsent.setdefault(run_id, []).append((_name(name), float(value), time_ms, step))

    def last_step(self, run_id: str) -> int:
        """The highest step of the run, sent or not."""
        sent = [step for (run, _), (step, _) in self._last.items() if run == run_id]
        return max([0, *sent, *(step for _, _, _, step in self._unsent.get(run_id, []))])

    def flush(self) -> None:
        """Send the queued metrics."""
        from mlflow.entities import Metric

        for run_id, rows in self._unsent.items():
            for part in _parts(rows, METRICS_PER_BATCH):
                try:
                    self.client.log_batch(run_id, metrics=[Metric(*row) for row in part])
                except Exception as error:
                    if not is_refusal(error):
                        raise
                    _log.warning("MLflow does not take %d metrics of run %s: %s", len(part), run_id, error)
                for name, value, _, step in part:
                    if step >= self._last.get((run_id, name), (-1, 0.0))[0]:
                        self._last[run_id, name] = (step, value)
        self.forget_unsent()

    def forget_unsent(self) -> None:
        """Drop the queue: its events will be read again."""
        self._unsent = {}

    def image(self, run_id: str, name: str, step: int, time_ms: int, png: str) -> None:
        """Log a picture so that the run's page shows it by name and step; once for each (name, step)."""
        from PIL import Image

        ident = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id}/{name}/{step}")
        if str(ident) in self._pictures:
            return
        key = re.sub(r"[^a-zA-Z0-9_\-. ~]", "_", name.replace("/", "~"))
        data = base64.b64decode(png)
        with tempfile.TemporaryDirectory() as folder:
            # The names that MLflow's image charts look for; its own log_image would add a random part to them.
            stem = f"{key}+step+{step}+timestamp+{time_ms}+{ident}"
            (Path(folder) / f"{stem}.png").write_bytes(data)
            small = Image.open(io.BytesIO(data)).convert("RGB")
            small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            small.save(Path(folder) / f"{stem}+compressed.webp", lossless=True)
            try:
                self.client.log_artifacts(run_id, folder, "images")
            except Exception as error:
                self.client.get_experiment(self.experiment_id)  # raises when it is the whole server that is away
                _log.warning("the artifact store of MLflow does not take the picture %s: %s", name, error)
                return
        self._pictures.add(str(ident))
        self.tag(run_id, {"mlflow.loggedImages": True})

    def end(self, run_id: str, status: str, time_ms: int, reason: str = "") -> None:
        if reason:
            self.tag(run_id, {"gankd.reason": reason})
        self.client.set_terminated(run_id, status, time_ms)
        self._ended[run_id] = time_ms

    def link_stages(self, run_id: str) -> None:
        """Point a trial at the runs of its stages, as far as they exist."""
        tags = self.client.get_run(run_id).data.tags
        stages = {name.removeprefix("gankd.key."): key for name, key in tags.items() if name.startswith("gankd.key.")}
        links = {f"gankd.stage_run.{stage}": self._find("stage", key) for stage, key in stages.items()}
        self.tag(run_id, {name: run for name, run in links.items() if run and name not in tags})

    def kill_leftovers(self) -> None:
        """End as KILLED whatever of this sweep still says RUNNING."""
        query = f"tags.`gankd.sweep` = '{self.sweep}' AND attributes.status = 'RUNNING'"
        while found := self.client.search_runs([self.experiment_id], query, max_results=1000):
            for run in found:
                self.client.set_terminated(run.info.run_id, "KILLED")


def stage_title(stage: str, key: str) -> str:
    """The name of a stage's run: the stage and the start of its key's digest."""
    return f"{stage} {key.rpartition('-')[2][:8]}".strip()


def mlflow_client(uri: str) -> Any:
    """An MlflowClient that gives up soon and keeps quiet. What the user has set in the environment stands."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the tracker has its own patience
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # no talk of tables and migrations
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def is_refusal(error: Exception) -> bool:
    """Whether the server answered, and will never take this."""
    return getattr(error, "error_code", None) in REFUSALS


def _name(name: str) -> str:
    """A name that MLflow accepts for params and metrics: its characters, and no path that means another one."""
    clean = re.sub(r"[^/\w.\- :]", "_", name).replace("..", "_")
    return posixpath.normpath(clean).lstrip("/")[:250] or "_"


def _shorten(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
