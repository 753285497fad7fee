"""What a tracked metric costs the training process: our event files against MLflow's client on SQLite.

    python benchmarks/tracking_cost.py

Ours: `EventWriter.emit` of ten metrics per call, with the writing of the files (done by a thread, in the same process)
counted in. MLflow: one `log_metric` per metric, as a training loop commonly does it, and one `log_batch` per ten.
Median of several rounds, in turns. Prints `ratio: X` against `log_metric`. What the driver does later to send events
on is not counted. MLflow waits for the disk, so the ratio grows on a slow or busy one: run it on a quiet machine.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from mlflow import MlflowClient
from mlflow.entities import Metric

from gankd.store.events import EventWriter

METRICS, EMITS, LOGS, ROUNDS = 10, 20_000, 100, 5


def emitted(folder: Path) -> float:
    """Seconds per metric through an EventWriter, all files written."""
    writer = EventWriter(str(folder / "events"), "benchmark", flush_s=0.5)
    values = {f"student/metric_{i}": 0.1 * i for i in range(METRICS)}
    start = time.perf_counter()
    for step in range(EMITS):
        writer.emit("metrics", key="0123456789abcdef", step=step, values=values)
    writer.close()
    return (time.perf_counter() - start) / (EMITS * METRICS)


def logged(client: MlflowClient, run: str) -> float:
    """Seconds per metric with one `log_metric` each."""
    start = time.perf_counter()
    for step in range(LOGS):
        client.log_metric(run, "student/metric", 0.1, step=step)
    return (time.perf_counter() - start) / LOGS


def batched(client: MlflowClient, run: str) -> float:
    """Seconds per metric with ten in one `log_batch`."""
    start = time.perf_counter()
    for step in range(LOGS // METRICS):
        now = int(time.time() * 1000)
        client.log_batch(run, [Metric(f"student/metric_{i}", 0.1, now, step) for i in range(METRICS)])
    return (time.perf_counter() - start) / (LOGS // METRICS * METRICS)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        run = client.create_run(client.create_experiment("benchmark", artifact_location=f"file://{folder}")).info.run_id
        rounds = [(emitted(Path(folder) / str(i)), logged(client, run), batched(client, run)) for i in range(ROUNDS)]
    ours, single, batch = (statistics.median(times) for times in zip(*rounds))
    print(f"event files             {1e6 * ours:9.2f} us per metric")
    print(f"mlflow, log_metric      {1e6 * single:9.2f} us per metric")
    print(f"mlflow, log_batch of 10 {1e6 * batch:9.2f} us per metric: {batch / ours:.0f} times ours")
    print(f"ratio: {single / ours:.0f}")


if __name__ == "__main__":
    main()
