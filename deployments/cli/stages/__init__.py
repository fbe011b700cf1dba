"""`datacomp pool`, `embed`, `filter`, `reshard`, `train`, `evaluate`: one module per stage; `until.py` has what they share."""
