"""Training on a GPU: steps of few kernels, captured once and replayed."""
