"""The doctor: what training on some data would take, what is wrong with how it is stored, and the command that mends it.

Nothing is trained, nothing is written, and no framework is imported: what Keras and TensorFlow would do is predicted by the rules
of the versions that are installed. What there is to measure is measured on a few places of the data, for a second or two.
"""
