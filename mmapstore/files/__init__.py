"""Every platform-dependent call on files, and buffers that are lent."""
