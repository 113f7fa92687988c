"""Staging areas: where chunks wait between stages, as immutable named files."""
