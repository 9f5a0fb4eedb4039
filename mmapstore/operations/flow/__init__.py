"""The one way in which values go from a source to a target: planned, read, converted, digested, written, recorded, published."""
