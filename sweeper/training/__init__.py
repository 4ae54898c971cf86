"""Tensors in, results out: the networks, the loop, the X-ray and the GPU's captured steps.

Owns torch, together with `engine`. In: a configuration and its images through `start.start`.
Out: one `EpochResult` per epoch, and a `TrainResult` at the end. Knows no tracker, study or engine.
"""
