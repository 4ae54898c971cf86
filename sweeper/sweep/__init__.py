"""The driver, and the commands that drive it: train, optimize, replay.

Owns the state of a sweep. In: the options of a command. Out: finished runs, a champion, a report.
"""
