"""`datacomp explore`: serves a local page for a pool and exports what it shows."""
