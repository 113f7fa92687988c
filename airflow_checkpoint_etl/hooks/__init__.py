"""Hooks: from Airflow connections to ports."""
