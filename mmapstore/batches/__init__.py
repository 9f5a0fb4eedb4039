"""Datasets and batches: order + reader -> (x, y). NumPy in, NumPy out; knows no framework."""
