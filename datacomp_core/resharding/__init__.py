"""Subset x shards -> shards: only what was chosen, every sample accounted for. See `reshard`."""
