"""Strategies that the field compares: adapters, low-rank updates, partial training, sampled gradients."""
