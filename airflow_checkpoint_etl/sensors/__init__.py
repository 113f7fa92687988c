"""Sensors: wait for another pipeline to get somewhere."""
