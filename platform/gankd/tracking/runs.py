"""The runs of one MLflow experiment, as `gankd.tracking.tracker` uses them: found by tag or made, and written in batches."""

from __future__ import annotations

import base64
import io
import logging
import re
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gankd.errors import UserError
from gankd.tracking.client import EXISTS, mlflow_client, on_server, quoted
from gankd.tracking.database import alone
from gankd.tracking.provenance import DataInput, source_tags
from gankd.tracking.rows import MetricRows, metric_name, parts

PARAMS_PER_BATCH, PARAM_CHARS, TAG_CHARS = 100, 500, 5000  # MLflow's limits or below them
THUMBNAIL_PX = 256
# Pages for training, not for GenAI. MLflow 3.17 goes by the address alone (`gankd.tracking.pages`), other versions by this.
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}

_log = logging.getLogger(__name__)


class Runs:
    """Runs of one experiment, seen from one sweep. Metrics go into `rows` and wait there; all else is sent at once."""

    def __init__(self, client: Any, experiment_id: str, sweep: str, data: DataInput | None = None) -> None:
        self.client, self.experiment_id, self.sweep, self.data = client, experiment_id, sweep, data
        self._ids: dict[tuple[str, str], str] = {}  # (kind, name) -> run id
        self._params: dict[str, set[str]] = {}
        self._ended: dict[str, int] = {}  # run id -> ms
        self.rows = MetricRows(client)
        self._pictures: dict[str, set[str]] = {}  # run id -> what ends the names of its pictures
        self._with_data: set[str] = set()  # ids of runs that have `data` as their input

    @staticmethod
    def open(uri: str, experiment: str, artifact_root: Path, sweep: str, data: DataInput | None = None) -> Runs:
        """Open (make, migrate) the tracking store and the experiment. Raises what MLflow raises."""
        client = mlflow_client(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            place = None if on_server(uri) else artifact_root.absolute().as_uri()
            try:
                return Runs(client, client.create_experiment(experiment, place, tags=EXPERIMENT_KIND), sweep, data)
            except Exception as error:
                if getattr(error, "error_code", None) != EXISTS:
                    raise
                found = client.get_experiment_by_name(experiment)  # of another sweep that has begun just now
        if not found.experiment_id:
            raise ValueError("it answers, but not as MLflow does")
        if found.lifecycle_stage == "deleted":
            raise UserError(
                f"the experiment {experiment!r} was deleted in MLflow; restore it (`mlflow experiments restore "
                f"-x {found.experiment_id}`) or set MLFLOW_TRACKING_URI to another store"
            )
        for tag, kind in EXPERIMENT_KIND.items():
            if tag not in found.tags:
                client.set_experiment_tag(found.experiment_id, tag, kind)
        return Runs(client, found.experiment_id, sweep, data)

    # Finding and making.

    def sweep_run(self, tags: Mapping[str, Any]) -> str:
        """Id of the sweep's own run."""
        return self._find_or_make("sweep", self.sweep, self.sweep, tags)

    def trial_run(self, trial: str) -> str:
        """Id of the run of a trial of this sweep."""
        tags = {"mlflow.parentRunId": self.sweep_run({})}
        return self._find_or_make("trial", trial, trial, tags)

    def stage_run(self, key: str, stage: str = "") -> str:
        """Id of the run of an artifact, whichever sweep made it."""
        tags = {"mlflow.parentRunId": self.sweep_run({})}
        return self._find_or_make("stage", key, stage_title(stage, key), tags)

    def has_ended_stage(self, key: str) -> bool:
        """Whether the artifact has a run, and that run has ended."""
        run = self._find("stage", key)
        return run is not None and self._ended[run] > 0

    def _find(self, kind: str, name: str) -> str | None:
        if (kind, name) not in self._ids:
            found = self._oldest(kind, name)
            if not found:
                return None
            self._remember(kind, name, found)
        return self._ids[kind, name]

    def _oldest(self, kind: str, name: str) -> Any:
        tag = {"sweep": "sweep", "trial": "trial", "stage": "key"}[kind]
        query = f"tags.`gankd.kind` = '{kind}' AND tags.`gankd.{tag}` = {quoted(name)}"
        if kind == "trial":
            query += f" AND tags.`gankd.sweep` = {quoted(self.sweep)}"
        found = self.client.search_runs([self.experiment_id], query, max_results=1, order_by=["start_time ASC"])
        return found[0] if found else None

    def _find_or_make(self, kind: str, name: str, title: str, tags: Mapping[str, Any]) -> str:
        if (kind, name) in self._ids:
            return self._ids[kind, name]
        own = {"gankd.kind": kind, "gankd.sweep": self.sweep, "gankd.key" if kind == "stage" else f"gankd.{kind}": name}
        texts = {key: _text(value, TAG_CHARS) for key, value in {**source_tags(), **own, **tags}.items()}
        with alone(self.client.tracking_uri) as locked:
            if found := self._find(kind, name):
                return found
            made = self.client.create_run(self.experiment_id, tags=texts, run_name=title)
            # A server keeps nobody out: of two that made the run at once, the younger withdraws.
            first = made if locked else self._oldest(kind, name) or made
            if first.info.run_id != made.info.run_id:
                self.client.delete_run(made.info.run_id)
            self._remember(kind, name, first)
        return self._ids[kind, name]

    def _remember(self, kind: str, name: str, run: Any) -> None:
        run_id = run.info.run_id
        self._ids[kind, name] = run_id
        self._params[run_id] = set(run.data.params)
        self._ended[run_id] = run.info.end_time or 0
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
        texts = {metric_name(key): _text(value, PARAM_CHARS) for key, value in params.items()}
        fresh = [Param(key, text) for key, text in texts.items() if key not in self._params[run_id]]
        for part in parts(fresh, PARAMS_PER_BATCH):
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

        for part in parts([RunTag(k, _text(v, TAG_CHARS)) for k, v in tags.items()], PARAMS_PER_BATCH):
            self.client.log_batch(run_id, tags=part)

    def image(self, run_id: str, name: str, step: int, time_ms: int, png: str) -> None:
        """Log a picture so that the run's page shows it by name and step; once for each (name, step)."""
        ident = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id}/{name}/{step}"))
        try:
            data = base64.b64decode(png)
            small = _thumbnail(data)
        except Exception as error:  # whatever a decoder raises
            _log.warning("the picture %s of step %d is damaged and passed over: %s", name, step, error)
            return
        key = re.sub(r"[^a-zA-Z0-9_\-. ~]", "_", name.replace("/", "~"))
        try:
            if ident in self._pictures_of(run_id):
                return
            with tempfile.TemporaryDirectory() as folder:
                # The names that MLflow's image charts look for; its own log_image would add a random part to them.
                stem = f"{key}+step+{step}+timestamp+{time_ms}+{ident}"
                (Path(folder) / f"{stem}.png").write_bytes(data)
                small.save(Path(folder) / f"{stem}+compressed.webp", lossless=True)
                self.client.log_artifacts(run_id, folder, "images")
        except Exception as error:
            self.client.get_experiment(self.experiment_id)  # raises when it is the whole server that is away
            _log.warning("the artifact store of MLflow does not take the picture %s: %s", name, error)
            return
        self._pictures[run_id].add(ident)
        self.tag(run_id, {"mlflow.loggedImages": True})

    def text(self, run_id: str, name: str, text: str) -> None:
        """Log a text as a file of the run; the same name again replaces it."""
        try:
            self.client.log_text(run_id, text, name)
        except Exception as error:
            self.client.get_experiment(self.experiment_id)  # raises when it is the whole server that is away
            _log.warning("the artifact store of MLflow does not take the text %s: %s", name, error)

    def _pictures_of(self, run_id: str) -> set[str]:
        if run_id not in self._pictures:
            paths = [found.path for found in self.client.list_artifacts(run_id, "images")]
            self._pictures[run_id] = {Path(path).stem.rpartition("+")[2] for path in paths}
        return self._pictures[run_id]

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
        query = f"tags.`gankd.sweep` = {quoted(self.sweep)} AND attributes.status = 'RUNNING'"
        while found := self.client.search_runs([self.experiment_id], query, max_results=1000):
            for run in found:
                self.client.set_terminated(run.info.run_id, "KILLED")


def stage_title(stage: str, key: str) -> str:
    """The name of a stage's run: the stage and the start of its key's digest."""
    return f"{stage} {key.rpartition('-')[2][:8]}".strip()


def _thumbnail(png: bytes) -> Any:
    from PIL import Image

    small = Image.open(io.BytesIO(png)).convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return small


def _text(value: Any, chars: int) -> str:
    """As text that a database takes: not too long, and a file name's stray bytes replaced."""
    text = str(value).encode(errors="replace").decode()
    return text if len(text) <= chars else text[: chars - 1] + "…"
