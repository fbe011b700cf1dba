"""Estimates a run before it starts: time, disk, traffic, GPU-hours and money, from records or documented figures."""
