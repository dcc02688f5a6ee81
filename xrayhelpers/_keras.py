"""TensorFlow and Keras, imported without their start-up chatter.

TensorFlow writes to file descriptor 2 from C++ while it is imported and again at its first operation, where
neither ``warnings`` nor ``sys.stderr`` can stop it. A lesson's stored output must not carry those lines, so the
descriptor points to nowhere for just these two moments. Every module that needs TensorFlow does
``from xrayhelpers._keras import keras, tf``; a second import costs nothing.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator

__all__ = ["keras", "tf"]


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Send everything written to file descriptor 2, also from C++, to nowhere."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


# A wish already made by the reader (for example to debug a GPU) stays.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

with _silent_stderr():
    import tensorflow as tf
    from tensorflow import keras

    # The first operation looks for GPUs and CPU features and reports both: provoke it here, in silence.
    list(tf.data.Dataset.range(1).map(lambda number: number + 1))

# TensorFlow counts traces over all models of a process and warns at the fifth: a lesson that trains eight models in a
# row would be told about a fault that it has not.
tf.get_logger().setLevel("ERROR")

# Keras 3.15 warns whenever `fit` gets a tf.data.Dataset and its own default, shuffle=True.
warnings.filterwarnings("ignore", message="`shuffle=True` was passed", category=UserWarning)
