"""Forecasts of the peak memory of training."""
