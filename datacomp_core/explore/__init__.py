"""A look at a pool: a uniform sample with its features, a map, named clusters, search, near-duplicates, and the export of all."""
