"""The driver, and the commands that drive it: train, optimize, replay.

Owns the state of a sweep. In: what the command line chose. Out: finished runs, a champion, a report.
"""
