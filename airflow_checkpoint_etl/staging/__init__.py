"""Staging areas: where chunks wait between stages."""
