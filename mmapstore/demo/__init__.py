"""`mmapstore demo`: a small next-frame model, trained from a memory-mapped file of real video, and what it took."""
