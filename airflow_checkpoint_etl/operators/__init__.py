"""Operators: the three stages as Airflow tasks."""
