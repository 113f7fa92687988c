"""Observers that speak Airflow: metrics, spans, the Storage tab, lineage. The runner knows none of them."""
