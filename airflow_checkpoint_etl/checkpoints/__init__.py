"""Checkpoint stores: the fast, rebuildable record of checkpoints and manifests."""
