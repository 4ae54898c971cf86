"""Engines: ways to train many runs at once, all under one contract."""
