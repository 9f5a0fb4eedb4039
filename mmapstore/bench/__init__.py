"""The memory-footprint benchmark: what each way of feeding Keras really costs, each in a process of its own."""
