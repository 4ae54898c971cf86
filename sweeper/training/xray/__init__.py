"""The X-ray: what BatchNorm and Dropout do to each other in a trained network."""
