"""Forecasts of the peak memory of training, and measurements of real steps."""
