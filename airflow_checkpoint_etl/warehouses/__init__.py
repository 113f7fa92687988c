"""Warehouses: where rows are loaded, and where the ledger decides."""
