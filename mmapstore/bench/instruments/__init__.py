"""What the benchmark measures with, and what it sets: memory from outside, limits, the GPU."""
