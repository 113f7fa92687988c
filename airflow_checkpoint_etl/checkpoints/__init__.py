"""Checkpoint stores: the fast record of checkpoints and manifests, rebuildable from the warehouse."""
