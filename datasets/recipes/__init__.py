"""Recipes: the published settings of training on a data set, each value with its source."""
