"""The process of one run, and its supervisor."""
