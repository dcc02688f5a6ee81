"""Training streams from the store: anonymous memory (RssAnon) does not grow with the number of images.

Building the store is watched in test_pixels.py.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WATCH = """
import json, re, sys, threading, time
from pathlib import Path
import numpy as np
from xrayhelpers._quiet import keras
from xrayhelpers import models, training

def anonymous():  # MB
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def watch():
    while True:
        peak.append(anonymous())
        time.sleep(0.02)

peak, before = [], anonymous()
threading.Thread(target=watch, daemon=True).start()
pixels = np.load(sys.argv[1], mmap_mode="r")
labels = np.arange(len(pixels)) % 2
# The input and its warp are the package's own; the network is tiny, because its arithmetic is not what is measured.
layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, "sigmoid")]
model = models.compile_binary(keras.Sequential([keras.Input(pixels.shape[1:]), *layers]))
training.train(model, pixels, labels, epochs=1, batch_size=64, validation=(pixels, labels), folder=sys.argv[2])
print(json.dumps([before, max(peak)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is read from /proc, which only Linux has")
def test_memory_of_training_is_flat_from_5000_to_20000_images(tmp_path):
    above = {}
    for n in (5_000, 20_000):
        path = tmp_path / f"{n}.npy"
        np.lib.format.open_memmap(path, "w+", np.uint8, (n, 128, 128, 3)).flush()  # a sparse file: no disk is filled
        command = [sys.executable, "-c", WATCH, str(path), str(tmp_path / "checkpoints")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        before, peak = json.loads(done.stdout.splitlines()[-1])
        above[n] = peak - before
    print(f"MB above the interpreter with TensorFlow: {above}")
    assert above[20_000] < 1_500
    assert above[20_000] - above[5_000] <= 100
