"""`datacomp explore`: a local page over a pool, and the export of what it shows."""
