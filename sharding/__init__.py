"""Solver steps over a mesh of devices. Empty so far: `solve` follows the shardings of its inputs."""
