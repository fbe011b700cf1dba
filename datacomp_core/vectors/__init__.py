"""Reference vectors (centroids, target sets) and the search for the nearest of them."""
