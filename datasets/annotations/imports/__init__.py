"""Annotation files of other tools, converted to ActivityNet's `database` (see `formats.read_import`)."""
