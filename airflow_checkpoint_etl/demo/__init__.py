"""The demonstration: embedded servers, a real Airflow, a kill and a proof."""
