"""The static site: one self-contained page a board, a method, a comparison, a pool and the scaling; nothing is fetched."""
