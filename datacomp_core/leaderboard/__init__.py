"""From evaluation reports to a decision: entries, the board with its noise, comparison, provenance, and one static page."""
