"""A sweep's tracker on a real SQLite store."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from gankd.store.events import EventReader, EventWriter
from gankd.tracking.provenance import DataInput
from gankd.tracking.tracker import Tracker

DIGITS = DataInput("digits", "0123456789abcdef" * 4, "scikit-learn", (1, 8, 8), {"train": 1078, "test": 599})


class Sweep:
    """A writer, and trackers that read it."""

    def __init__(self, folder: Path, name: str = "s1", data: DataInput = DIGITS) -> None:
        self.folder, self.name, self.data = folder, name, data
        self.writer = EventWriter(str(folder / name), "driver", 1e6)
        self.tracker = self.open()

    def open(self) -> Tracker:
        uri = f"sqlite:///{self.folder}/mlflow.db"
        reader, cursor = EventReader(str(self.folder / self.name)), self.folder / f"{self.name}.json"
        tracker = Tracker(uri, "rgal/digits", self.folder / "pictures", self.name, reader, cursor, self.data)
        tracker.open_sweep({"scheduler": "asha"}, {"gankd.method": "rgal", "gankd.dataset": "digits"})
        return tracker

    def send(self) -> int:
        self.writer.flush()
        return self.tracker.pump()

    def trial(self, name: str = "t0", key: str = "k" * 16, status: str = "finished", reason: str = "") -> None:
        emit = self.writer.emit
        emit("trial_start", trial=name, params={"student.lr": 0.1, "seed": 0}, keys={"student": key})
        emit("stage_start", key=key, stage="student", config={"lr": 0.1}, inputs={"teacher": "t" * 16}, trial=name)
        for step in range(3):
            emit("metrics", key=key, step=step, values={"student/loss": 1.0 / (step + 1)})
        end = {"trial": name, "status": status, "reason": reason}
        emit("stage_end", key=key, stage="student", metrics={"student/acc": 0.5}, **end)
        emit("metrics", trial=name, step=2, values={"val/student": 0.5})
        emit("trial_end", metrics={"val/best": 0.5}, **end)

    def runs(self, kind: str = "") -> list[Any]:
        query = f"tags.`gankd.kind` = '{kind}'" if kind else ""
        return list(self.tracker.runs.client.search_runs([self.tracker.runs.experiment_id], query))

    def rows(self) -> int:
        """Metric rows of all runs, histories included."""
        client = self.tracker.runs.client
        return sum(len(client.get_metric_history(r.info.run_id, m)) for r in self.runs() for m in r.data.metrics)


def picture() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 40), "red").save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
