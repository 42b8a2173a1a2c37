"""Comparison of strategies that adapt a video backbone to temporal action localization."""
