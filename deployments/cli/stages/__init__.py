"""`datacomp pool`, `embed`, `filter`, `reshard`, `train`, `evaluate`: one module a stage, `until.py` what they share."""
