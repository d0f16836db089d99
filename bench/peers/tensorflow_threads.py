"""TensorFlow as its two users here want it: quiet, and with as many threads as the cell."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["tensorflow"]


def tensorflow(threads: int) -> Any:
    """Import TensorFlow; its threads are set once, before it runs anything."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import tensorflow as tf

    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf
