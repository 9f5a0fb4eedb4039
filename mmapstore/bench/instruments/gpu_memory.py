"""GPU memory, as TensorFlow's allocators count it."""

from __future__ import annotations


def reset_peak() -> None:
    """Let `peak` count from here."""
    import tensorflow as tf

    for index, _ in enumerate(tf.config.list_logical_devices("GPU")):
        tf.config.experimental.reset_memory_stats(f"GPU:{index}")


def peak() -> int | None:
    """The most bytes that tensors had on all GPUs since the reset; None without a GPU.

    Not what `nvidia-smi` shows: TensorFlow takes almost all of a GPU when it starts, and shares it out itself.
    """
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU")
    if not devices:
        return None
    return sum(int(tf.config.experimental.get_memory_info(f"GPU:{index}")["peak"]) for index, _ in enumerate(devices))
