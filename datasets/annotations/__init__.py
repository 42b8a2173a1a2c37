"""Annotations: their values, the files that they are read from, and what is repaired in them."""
