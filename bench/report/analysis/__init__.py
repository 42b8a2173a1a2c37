"""Intervals of differences, convergence, and the findings that follow from them."""
