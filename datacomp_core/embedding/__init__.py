"""Image and text features of a pool's rows and their cosine, by any CLIP of ours. See `encode` for the step."""
