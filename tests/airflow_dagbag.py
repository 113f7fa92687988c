"""DagBag on every supported Airflow: 3.2 moved it, and then it learnt to name its bundle."""

from __future__ import annotations

import inspect

try:
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
except ModuleNotFoundError:  # Airflow 3.1
    from airflow.models.dagbag import DagBag, sync_bag_to_db

__all__ = ["make_dag_bag", "sync_bag_to_db"]


def make_dag_bag(folder: str, bundle: str) -> DagBag:
    names_bundle = "bundle_name" in inspect.signature(DagBag.__init__).parameters
    return DagBag(folder, **({"bundle_name": bundle} if names_bundle else {}))
