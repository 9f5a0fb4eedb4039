"""The memory-footprint benchmark: memory and time of each strategy of feeding Keras, each in a process of its own."""
