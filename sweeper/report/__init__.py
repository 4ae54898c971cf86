"""Figures and pages of what a study measured: tuples in, pictures and HTML out."""
