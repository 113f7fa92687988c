"""In-memory source and warehouse, for tests of DAGs; see :mod:`airflow_checkpoint_etl.testing`."""
