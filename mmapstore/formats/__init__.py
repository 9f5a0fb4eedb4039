"""One module for each format: opens an array as it lies on disk, and writes a new one."""
