"""The leaderboard of a scale: rows, ranks, verdicts, comparisons and what may be cleared away."""
