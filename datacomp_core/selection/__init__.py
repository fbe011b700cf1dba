"""The selection engine: runs a filter over a pool, part by part, and returns the sorted multiset of kept uids."""
