"""The sweep's runs in MLflow, written by one process from the events that all the others left behind.

Training processes write files (`gankd.store.events`) and never wait for a tracker. The driver pumps those files to MLflow in
batches and moves its cursor only past what was accepted, so a server that is away loses nothing. Sending twice does no
harm: runs are found by their tags before one is made, a step of a metric is sent once (`gankd.tracking.rows`), and the
name of a picture follows from its run, name and step. So a lost cursor is mended by reading from the start.

Runs of an experiment `<method>/<data set>`, told apart by the tag `gankd.kind`:
    sweep   the parent. Tags: gankd.sweep and what the driver adds.
    trial   a child: all knobs as params, `gankd.key.<stage>` and `gankd.stage_run.<stage>` as tags.
    stage   one per artifact, whichever sweep or trial made it first: config as params, curves, pictures.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from gankd.errors import UserError
from gankd.store.events import CLOSED, Cursor, Event, EventReader
from gankd.tracking.client import answering, explained, first_line, is_refusal, public
from gankd.tracking.database import FILE, sqlite_uri
from gankd.tracking.provenance import DataInput, source_tags
from gankd.tracking.runs import Runs, stage_title

PERIOD_S = 2.0  # between two pumps
LONGEST_PAUSE_S = 30.0  # between two attempts to reach a server that is away
BROKEN_EVENT = (LookupError, TypeError, ValueError, ArithmeticError)  # what one raises that is not what it says
STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}

_log = logging.getLogger(__name__)


class Tracker:
    """Sends the events of one sweep to MLflow.

    Args:
        uri: tracking URI; `default_uri` gives the user's choice or a SQLite file.
        experiment: `<method>/<data set>`; made where missing.
        artifact_root: absolute folder for pictures and models; a server behind http chooses its own.
        sweep: name of the sweep; a sweep that is resumed finds its runs by it.
        reader: where the events are.
        cursor_path: file that remembers which events were accepted.
        data: the data set that the runs are shown with.

    Raises UserError when the tracking store cannot be opened, or the cursor's folder cannot be made. Afterwards only
    `pump` and `run_of` raise because the server is away: training goes on without it, registering cannot.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        artifact_root: Path,
        sweep: str,
        reader: EventReader,
        cursor_path: Path,
        data: DataInput | None = None,
    ) -> None:
        self.uri, self.sweep, self.reader, self.cursor_path = uri, sweep, reader, cursor_path
        try:
            self.runs = Runs.open(uri, experiment, artifact_root, sweep, data)
        except Exception as error:
            raise explained(uri, error) from error
        self._cursor = _read_cursor(cursor_path)
        self._found: dict[str, Mapping[str, Any]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._away = False

    @staticmethod
    def default_uri(folder: Path) -> str:
        """MLFLOW_TRACKING_URI where it is set, else a SQLite file in `folder`."""
        return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or sqlite_uri(folder.absolute() / FILE)

    # The sweep.

    def open_sweep(self, params: Mapping[str, Any], tags: Mapping[str, Any]) -> str:
        """Make the sweep's run, or open it again; its id. Raises UserError when the server does not answer."""
        try:
            return self.runs.begin(self.runs.sweep_run(tags), int(time.time() * 1000), params, {**source_tags(), **tags})
        except Exception as error:
            raise explained(self.uri, error) from error

    def stage_from_store(self, key: str, manifest: Mapping[str, Any]) -> None:
        """See that an artifact found in the store has a run, made from its manifest. Sent with the next pump."""
        self._found[key] = manifest

    def run_of(self, *, trial: str = "", key: str = "") -> str:
        """Id of the run of a trial, of a stage key, or of the sweep, made where missing. UserError: the server is away."""
        with self._lock, answering(self.uri):  # locked, or the thread that pumps would make it too
            return self._run_of(key, trial)

    def _run_of(self, key: str, trial: str) -> str:
        return self.runs.stage_run(key) if key else self.runs.trial_run(trial) if trial else self.runs.sweep_run({})

    def finish(self, status: str = "finished") -> bool:
        """End the sweep's run ('finished', 'failed' or 'stopped') and what was left running. False: server away."""
        with self._lock:
            try:
                self.runs.end(self.runs.sweep_run({}), STATUS[status], int(time.time() * 1000))
                self.runs.kill_leftovers()
                return True
            except Exception as error:
                self._warn(error)
                return False

    # Sending.

    def start(self) -> None:
        """Pump every few seconds in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)
        self._thread.start()

    def pump(self) -> int:
        """Send what is new; the number of events sent. Raises what MLflow raises when the server is away."""
        sent = 0
        with self._lock:
            self.runs.rows.forget()
            for key in list(self._found):
                self._stage_found(key, self._found[key])
                del self._found[key]
            while True:
                events, cursor = self.reader.read(self._cursor)
                if cursor == self._cursor:
                    return sent
                for event in events:
                    self._apply(event)
                self.runs.rows.flush()
                self._advance(cursor)
                sent += len(events)

    def close(self, wait_s: float = 10.0) -> int:
        """Stop the thread and send the rest, trying for `wait_s` seconds; the number of events still not sent."""
        self._stop.set()
        if self._thread:
            self._thread.join(wait_s)
        deadline = time.monotonic() + wait_s
        while not self._try_pump() and time.monotonic() < deadline:
            time.sleep(0.5)
        return self.unsent()

    def unsent(self) -> int:
        """Number of events that wait to be sent."""
        count, cursor = 0, self._cursor
        while True:
            events, after = self.reader.read(cursor)
            if after == cursor:
                return count
            count, cursor = count + len(events), after

    def _run(self) -> None:
        pause = PERIOD_S
        while not self._stop.wait(pause):
            pause = PERIOD_S if self._try_pump() else min(2 * pause, LONGEST_PAUSE_S)

    def _try_pump(self) -> bool:
        try:
            sent = self.pump()
        except Exception as error:  # whatever it is, training must not notice
            self._warn(error)
            return False
        if self._away and sent:
            _log.warning("MLflow at %s answers again; %d events were sent", public(self.uri), sent)
        self._away = self._away and not sent
        return True

    def _warn(self, error: Exception) -> None:
        if not self._away:
            text = "MLflow at %s does not answer (%s); training goes on and everything is sent later from %s"
            _log.warning(text, public(self.uri), first_line(error), self.reader.folder)
        self._away = True

    def _advance(self, cursor: Cursor) -> None:
        self.cursor_path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.cursor_path.with_suffix(".tmp")
        aside.write_text(json.dumps(cursor))
        aside.replace(self.cursor_path)
        self._cursor = cursor

    # What each kind of event does.

    def _apply(self, event: Event) -> None:
        handle = getattr(self, f"_on_{event['kind']}", None)
        if handle is None:  # progress and the like are for others
            return
        try:
            handle(event)
        except Exception as error:
            if not isinstance(error, BROKEN_EVENT) and not is_refusal(error):
                raise
            _log.warning("MLflow does not take an event %s: %s", event["kind"], first_line(error))

    def _target(self, event: Event) -> str:
        return self._run_of(event.get("key") or "", event.get("trial") or "")

    def _on_stage_start(self, event: Event) -> None:
        key, stage, trial = event["key"], event["stage"], event.get("trial")
        tags = {f"gankd.key.{name}": value for name, value in event.get("inputs", {}).items()}
        run = self.runs.stage_run(key, stage)
        self.runs.begin(run, event["time"], event["config"], tags, stage_title(stage, key))
        if trial:
            self.runs.tag(self.runs.trial_run(trial), {f"gankd.key.{stage}": key, f"gankd.stage_run.{stage}": run})

    def _on_metrics(self, event: Event) -> None:
        run = self._target(event)
        if event.get("key") or event.get("trial"):
            self.runs.rows.curve(run, event["values"], event["time"], event.get("step") or 0)
        else:
            self.runs.rows.figures(run, event["values"], event["time"])

    def _on_tags(self, event: Event) -> None:
        self.runs.tag(self._target(event), event["tags"])

    def _on_image(self, event: Event) -> None:
        self.runs.image(self._target(event), event["name"], event.get("step") or 0, event["time"], event["png"])

    def _on_text(self, event: Event) -> None:
        self.runs.text(self._target(event), event["name"], event["text"])

    def _on_stage_end(self, event: Event) -> None:
        self._end(self._target({"key": event["key"]}), event)

    def _on_trial_start(self, event: Event) -> None:
        tags = {f"gankd.key.{stage}": key for stage, key in event.get("keys", {}).items()}
        run = self.runs.begin(self.runs.trial_run(event["trial"]), event["time"], event["params"], tags)
        self.runs.link_stages(run)

    def _on_trial_end(self, event: Event) -> None:
        run = self.runs.trial_run(event["trial"])
        self._end(run, event)
        self.runs.link_stages(run)

    def _end(self, run: str, event: Event) -> None:
        self.runs.rows.figures(run, event["metrics"], event["time"])
        self.runs.end(run, STATUS[event["status"]], event["time"], event.get("reason") or "")

    def _stage_found(self, key: str, manifest: Mapping[str, Any]) -> None:
        from gankd.method import flatten

        if self.runs.has_ended_stage(key):
            return
        stage, created = manifest["stage"], int(manifest.get("created", time.time()) * 1000)
        tags = {f"gankd.key.{name}": value for name, value in manifest.get("inputs", {}).items()}
        run = self.runs.begin(self.runs.stage_run(key, stage), created, flatten(manifest["config"]), tags)
        values = {f"{stage}/{name}": value for name, value in manifest["metrics"].items()}
        ended = created + int(1000 * manifest.get("seconds", 0))
        self.runs.rows.figures(run, values, ended)
        self.runs.rows.flush()
        self.runs.end(run, "FINISHED", ended)


def _read_cursor(path: Path) -> Cursor:
    """What the file remembers. One that is damaged is set aside: reading starts anew, and sends nothing twice."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return {}
    except OSError as error:
        raise UserError(f"the folder {str(path.parent)!r} cannot be made ({error}); move what is in its place away") from error
    try:
        cursor = json.loads(path.read_bytes())
        if isinstance(cursor, dict) and all(type(seq) is int and seq >= CLOSED for seq in cursor.values()):
            return cursor
    except (OSError, ValueError, RecursionError):
        pass
    number = next(number for number in count(1) if not path.with_suffix(f".damaged{number}").exists())
    aside = path.rename(path.with_suffix(f".damaged{number}"))
    _log.warning("the damaged cursor file %s is set aside as %s; all events are read again", path, aside.name)
    return {}
