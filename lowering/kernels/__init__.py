"""Kernels of Pallas; each takes what the function it stands for takes, and `interpret`."""
