"""Annotations: file formats, checks and repairs."""
