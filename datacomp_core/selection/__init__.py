"""The selection engine: a filter over a pool, part by part, to the sorted multiset of the uids it keeps."""
