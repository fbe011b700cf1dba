"""Resharding: subset x shards -> shards with only the chosen samples; every sample is counted. See `reshard`."""
