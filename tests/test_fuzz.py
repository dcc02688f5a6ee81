"""2,000 mutated copies of real files: each decodes or is refused in words; nothing crashes and nothing hangs."""

import faulthandler
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from xrayhelpers import dataset, decode, sources

ORIGINALS = Path(__file__).resolve().parents[2] / "shared" / "data" / "chest_xray_originals"
MUTATIONS = 2000


def mutate(content, rng):
    """Return a damaged copy, in one of the ways in which disks, networks and people damage files."""
    content = bytearray(content)
    at = int(rng.integers(len(content)))
    head = int(rng.integers(min(700, len(content))))
    how = int(rng.integers(7))
    if how == 0:  # a few bytes anywhere
        for i in rng.integers(0, len(content), int(rng.integers(1, 20))):
            content[i] = int(rng.integers(256))
    elif how == 1:  # a few bytes in the header: sizes, tables
        for i in rng.integers(0, min(700, len(content)), int(rng.integers(1, 8))):
            content[i] = int(rng.integers(256))
    elif how == 2:  # cut off, with and without an end that looks good
        del content[at:]
        content += b"\xff\xd9" if rng.random() < 0.5 else b""
    elif how == 3:  # a piece is missing
        del content[at : at + int(rng.integers(1, 5000))]
    elif how == 4:  # a piece stands twice
        content[at:at] = content[at : at + int(rng.integers(1, 5000))]
    elif how == 5:  # a block of zeros, as after a crash
        content[at : at + 4096] = bytes(len(content[at : at + 4096]))
    else:  # a marker where there should be none
        content[head : head + 2] = bytes([0xFF, int(rng.integers(0xC0, 0xFF))])
    return bytes(content)


def test_fuzz(tmp_path):
    files = sorted(ORIGINALS.rglob("*.jpeg"))
    if not files:
        pytest.skip("the original files are not here (../shared/data/chest_xray_originals)")
    contents = [file.read_bytes() for file in files]
    outcomes = Counter()

    def one(seed):
        rng = np.random.default_rng(seed)
        path = tmp_path / f"{seed}.jpeg"
        path.write_bytes(mutate(contents[seed % len(contents)], rng))
        refused = image = None
        try:
            dataset.read_header(path)
        except dataset.UnreadableError as error:
            refused = str(error)
        try:
            image = decode.read_resized(path, 32, (1, 3)[seed % 2], decode.INTERPOLATIONS[seed % 3])
            said = ""
        except sources.DataError as error:
            said = str(error)
        path.unlink()
        if image is None:
            assert said.startswith(path.name)
            assert refused is None or refused in said
        else:
            assert refused is None  # what the index refuses is never decoded
            assert image.shape == (32, 32, (1, 3)[seed % 2])
            assert image.dtype == np.uint8
        outcomes["decoded" if image is not None else "refused by header" if refused else "refused by decoder"] += 1

    faulthandler.dump_traceback_later(300, exit=True)  # a hang ends with the place where it hangs
    with warnings.catch_warnings(), ThreadPoolExecutor(sources.cores()) as pool:
        warnings.simplefilter("ignore")
        for future in [pool.submit(one, seed) for seed in range(MUTATIONS)]:
            future.result()
    faulthandler.cancel_dump_traceback_later()
    assert sum(outcomes.values()) == MUTATIONS
    assert min(outcomes["decoded"], outcomes["refused by header"], outcomes["refused by decoder"]) > 0, outcomes
    print(dict(outcomes))
