"""In-memory ports with the contracts of the real ones, for your own tests. They forget everything."""

from airflow_checkpoint_etl.inmemory.memory import Memory, memory
from airflow_checkpoint_etl.inmemory.source import InMemorySource
from airflow_checkpoint_etl.inmemory.stores import InMemoryCheckpointStore, InMemoryStagingArea
from airflow_checkpoint_etl.inmemory.warehouse import InMemoryWarehouse

__all__ = [
    "InMemoryCheckpointStore",
    "InMemorySource",
    "InMemoryStagingArea",
    "InMemoryWarehouse",
    "Memory",
    "memory",
]
