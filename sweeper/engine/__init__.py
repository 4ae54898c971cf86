"""Engines: ways to run many trainings at once, all under one contract."""
