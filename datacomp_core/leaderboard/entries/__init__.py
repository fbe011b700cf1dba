"""Leaderboard entries: one training with its scores, the chain behind it, and the rules it is checked by."""
