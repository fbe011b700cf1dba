"""`datacomp pool`, `embed`, `filter`, `reshard`, `train`, `evaluate`: one module per stage; `run_to_stage.py` has what they
share."""
