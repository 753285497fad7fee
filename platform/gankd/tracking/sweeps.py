"""What the tracker knows of finished sweeps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gankd.tracking.client import answering, mlflow_client, pages, quoted


@dataclass(frozen=True)
class FinishedSweep:
    """A finished sweep.

    Attributes:
        objective: name of the metric that its trials were compared by.
        metrics: all figures of its own run, see `gankd.sweep.conclusion.summary`.
        facts: what numbers depend on, by what they are of ("objective", "student", "generator"): two sweeps' numbers
            compare only where these are equal. What a damaged tag said is equal to nothing.
    """

    method: str
    name: str
    run_id: str
    objective: str
    metrics: dict[str, float]
    facts: dict[str, dict[str, Any]]


def finished_sweeps(uri: str, dataset: str) -> list[FinishedSweep]:
    """All finished sweeps on a data set, the newest first. Raises UserError when the store cannot be reached."""
    with answering(uri):
        client = mlflow_client(uri)
        experiments = [experiment.experiment_id for experiment in pages(client.search_experiments)]
        query = f"tags.`gankd.kind` = 'sweep' AND tags.`gankd.dataset` = {quoted(dataset)} AND attributes.status = 'FINISHED'"
        return [_finished(run) for run in pages(partial(client.search_runs, experiments, query, max_results=1000))]


def filled_tables(uri: str, sweep: FinishedSweep) -> list[str]:
    """The pages (Markdown) of the tables that a sweep has filled. Raises UserError when the store cannot be reached."""
    with answering(uri), TemporaryDirectory() as folder:
        client = mlflow_client(uri)
        pages_of_run = [found.path for found in client.list_artifacts(sweep.run_id, "tables")]
        return [Path(client.download_artifacts(sweep.run_id, page, folder)).read_text("utf-8") for page in pages_of_run]


def tracked_datasets(uri: str) -> list[str]:
    """What the data sets of all experiments are called, sorted. Raises UserError when the store cannot be reached."""
    with answering(uri):
        names = {experiment.name.partition("/")[2] for experiment in mlflow_client(uri).search_experiments()}
    return sorted(names - {""})


def _finished(run: Any) -> FinishedSweep:
    tags = run.data.tags
    start = "gankd.comparable."
    return FinishedSweep(
        tags.get("gankd.method", "unknown"),
        tags.get("gankd.sweep") or run.info.run_name or run.info.run_id,
        run.info.run_id,
        tags.get("gankd.metric", ""),
        dict(run.data.metrics),
        {name.removeprefix(start): _facts(run, text) for name, text in tags.items() if name.startswith(start)},
    )


def _facts(run: Any, text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    return facts if isinstance(facts, dict) else {"unreadable tag of run": run.info.run_id}
