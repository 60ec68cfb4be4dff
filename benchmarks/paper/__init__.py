"""The benchmarks of arXiv 2506.05878 beside backprop: `python -m benchmarks.paper --data-dir DIR`."""
