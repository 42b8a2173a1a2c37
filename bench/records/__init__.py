"""A folder of results: records, paths, locks and progress."""
