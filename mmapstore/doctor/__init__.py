"""The doctor: predict what training on an array takes, find what is wrong with its storage, and print the command that fixes it.

The doctor trains nothing, writes nothing and imports no framework: it predicts Keras and TensorFlow by the rules of the installed
versions, and measures a few places of the data for a second or two.
"""
