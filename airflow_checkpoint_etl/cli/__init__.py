"""``airflow checkpoints ...``: the read model and the commands on the command line. No SQL is here."""
