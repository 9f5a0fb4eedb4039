"""Decoders of encoded chunks, each from a well-kept library that decodes outside the interpreter's lock."""
