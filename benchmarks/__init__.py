"""Claims of speed and memory, each a ratio measured beside its peer. See README.md here."""
