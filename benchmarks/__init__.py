"""Benchmarks, most as ratios to a dense network of the same useful FLOPs."""
