"""Training: the fixed half of DataComp, with open_clip_train, from shards to a checkpoint. See `train.train`."""
