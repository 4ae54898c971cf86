"""The images that a run may see, as arrays.

Owns sources of images, their verification, splits, shared memory and the embedded sample.
In: a configuration. Out: `Split`s of uint8 arrays `(N, H, W, C)` and labels `(N,)`.
"""
