"""Measurements of speed: each prints what it measured, on which hardware, how often, and the spread."""
