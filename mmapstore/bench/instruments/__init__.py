"""The instruments of the benchmark: memory from outside, and limits."""
