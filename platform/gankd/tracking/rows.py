"""Metric rows on their way to MLflow: each step of a metric of a run once, however often it is sent."""

from __future__ import annotations

import logging
import math
import posixpath
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gankd.tracking.client import is_refusal
from gankd.tracking.database import alone

ROWS_PER_BATCH = 1000  # MLflow's limit

_log = logging.getLogger(__name__)


class _Queued(NamedTuple):
    values: dict[str, float]
    time_ms: int
    step: int | None  # None for figures


class MetricRows:
    """Rows wait for `flush`. What a run has is looked up there and then: another process may have sent rows of it too.

    MLflow itself keeps two rows of one step when their times or values differ.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self._queue: dict[str, list[_Queued]] = {}  # by run id

    def curve(self, run_id: str, values: Mapping[str, float], time_ms: int, step: int) -> None:
        """Queue values of a step. Of a step that the run has already, the first value stands."""
        self._put(run_id, values, time_ms, step)

    def figures(self, run_id: str, values: Mapping[str, float], time_ms: int) -> None:
        """Queue values that hold for the whole run. They stand at its last step; one that has changed, a step further.

        What is older than the run's last row of the same metric is old news.
        """
        self._put(run_id, values, time_ms, None)

    def _put(self, run_id: str, values: Mapping[str, float], time_ms: int, step: int | None) -> None:
        named = {metric_name(name): _kept(float(value)) for name, value in values.items()}
        self._queue.setdefault(run_id, []).append(_Queued(named, time_ms, step))

    def forget(self) -> None:
        """Drop the queue: its events will be read again."""
        self._queue = {}

    def flush(self) -> None:
        """Send what is queued. Raises what MLflow raises when it is away."""
        from mlflow.entities import Metric

        for run_id, queued in self._queue.items():
            with alone(self.client.tracking_uri):  # or another process would send between the look and the sending
                try:
                    for part in parts(list(self._new(run_id, queued)), ROWS_PER_BATCH):
                        self.client.log_batch(run_id, metrics=[Metric(*row) for row in part])
                except Exception as error:
                    if not is_refusal(error):
                        raise
                    _log.warning("MLflow does not take metrics of run %s: %s", run_id, error)
        self.forget()

    def _new(self, run_id: str, queued: Sequence[_Queued]) -> Iterator[tuple[str, float, int, int]]:
        """The rows (name, value, time, step) that the run does not have."""
        last = {m.key: (m.step, m.timestamp, m.value) for m in self.client.get_run(run_id).data.to_proto().metrics}
        steps: dict[str, set[int]] = {}  # all, of the metrics of which one step is not the last
        sent: dict[str, set[int]] = {}
        for values, time_ms, of_step in queued:
            end = max([0, *(step for step, _, _ in last.values())])
            for name, value in values.items():
                before = last.get(name)
                if of_step is None:
                    if before and (time_ms <= before[1] or _same(before[2], value)):
                        continue
                    step = max(end, before[0] + 1) if before else end
                else:
                    step = of_step
                    if before and step <= before[0]:
                        if name not in steps:
                            steps[name] = {m.step for m in self.client.get_metric_history(run_id, name)}
                        if step in steps[name] or step in sent.get(name, ()):
                            continue
                sent.setdefault(name, set()).add(step)
                if before is None or step > before[0]:
                    last[name] = (step, time_ms, value)
                yield name, value, time_ms, step


def _kept(value: float) -> float:
    """The value as MLflow keeps it: it has no infinities."""
    return math.copysign(sys.float_info.max, value) if math.isinf(value) else value


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def metric_name(name: str) -> str:
    """A name that MLflow accepts for params and metrics: its characters, and no path that means another one."""
    clean = re.sub(r"[^/\w.\- :]", "_", name).replace("..", "_")
    return posixpath.normpath(clean).lstrip("/")[:250] or "_"


def parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    """The items in portions."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
