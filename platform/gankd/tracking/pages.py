"""Addresses of MLflow's pages."""

from __future__ import annotations

from functools import partial

from gankd.tracking.client import answering, mlflow_client, pages

DEFAULT_EXPERIMENT = "0"  # MLflow's own, which gankd never uses


def run_tables(uri: str, server: str) -> dict[str, str]:
    """Experiment -> address of the table of its runs on the MLflow server at `server`, the one written last first.

    Raises UserError when the store `uri` cannot be opened.
    """
    with answering(uri):
        search = partial(mlflow_client(uri).search_experiments, order_by=["last_update_time DESC"])
        found = list(pages(search))
    # Without this in the address a browser that has never been there shows the pages for GenAI, whatever the experiment says.
    kind = "workflowType=machine_learning"
    return {
        experiment.name: f"{server}/#/experiments/{experiment.experiment_id}/runs?{kind}"
        for experiment in found
        if experiment.experiment_id != DEFAULT_EXPERIMENT
    }
