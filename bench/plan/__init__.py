"""Forecasts of the peak memory of training, and measured steps beside them."""
