"""Data and arithmetic: errors, shapes, windows, orders, budgets, manifests. No I/O; imports NumPy alone."""
