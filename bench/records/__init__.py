"""A results folder: records, paths, locks and progress."""
