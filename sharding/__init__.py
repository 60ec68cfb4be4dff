"""Solver steps over a mesh of devices. Empty so far: `solve` runs on one device."""
