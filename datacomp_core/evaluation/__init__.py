"""Zero-shot evaluation by the reference's protocols. See `catalog` for the tasks and `evaluate` for the step."""
