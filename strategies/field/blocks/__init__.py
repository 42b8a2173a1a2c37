"""Modules of strategies that change a transformer's blocks. Importing this package loads no torch."""
