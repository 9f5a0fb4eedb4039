"""`mmapstore demo`: train a small next-frame model from a memory-mapped file of real video, and report its memory."""
