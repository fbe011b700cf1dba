"""Searching a filter: a recipe with free parameters, trials of it, and a verdict that knows about selection."""
