"""Read one image file, of whatever kind a hospital or a web page gives: its header, or its pixels, upright, 8 bits."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from xrayhelpers._machine import DataError

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".dcm", ".dicom")
INTERPOLATIONS = ("nearest", "bilinear", "area")
FORMATS = ("JPEG", "PNG")  # the JPEG reader also opens the photographs of several pictures (MPO) of telephones
SMALLEST_SIDE, MOST_PIXELS, MOST_BYTES = 16, 25_000_000, 200_000_000
MOST_SCANNED = 400_000_000  # pixels times scans: a progressive JPEG of a thousand scans takes as long as 1,000 files
ORIENTATION = 274  # the EXIF tag; 5 to 8 swap width and height


class UnreadableError(DataError):
    """One file is not an image that this package can use; the text is the reason alone."""


def inspect(path: str | Path) -> dict:
    """Describe one image, and listen to what its decoder says.

    Returns
    -------
    dict
        width, height (upright, pixels); mode (Pillow's; a PNG of 16 bits says how many of them hold the picture, for
        example "I;12"); sha256 of the file; damage: "", or why some pixels must be wrong although it can be decoded;
        plain: whether other libraries read the file as `read_image` does.

    Raises
    ------
    UnreadableError
        If there is nothing to be seen.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (*IMAGE_SUFFIXES, ""):
        raise UnreadableError(f"ends in {suffix}; expected {', '.join(IMAGE_SUFFIXES)}")
    content = _content(path)
    image, *about = _open(content)
    facts = dict(zip(("width", "height", "mode"), about, strict=True), bytes=len(content), damage="")
    facts["plain"] = image is not None and not facts["mode"].endswith(";16") and _orientation(image) == 1
    try:
        if image is None:
            _read_dicom(content)
        elif image.format == "PNG":
            image.verify()
            bits = _read_png(content)[1]
            facts["mode"] = facts["mode"].replace(";16", f";{bits}")
        else:
            _listen(content, image)
    except Exception as error:  # libjpeg's words, Pillow's, or pydicom's
        facts["damage"] = f"damaged: {error}"
        _decode(content, _open(content)[0])  # where this fails as well, there is no picture
    return {**facts, "sha256": hashlib.sha256(content).hexdigest()}


def _content(path: str | Path) -> bytes:
    """Read a file, if it is one (a pipe would be waited for) of a size that an image can have."""
    try:
        str(path).encode()
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            raise UnreadableError("a folder, pipe or device; an image file expected")
        if not 0 < about.st_size <= MOST_BYTES:
            size = f"{about.st_size:,} bytes; at most {MOST_BYTES:,} expected"
            raise UnreadableError(size if about.st_size else "empty file (0 bytes)")
        with open(path, "rb") as file:
            return file.read()
    except UnicodeEncodeError:
        raise UnreadableError("path is not UTF-8") from None
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error


def _open(content: bytes) -> tuple[Image.Image | None, int, int, str]:
    """Open an image without decoding it: Pillow's (None: DICOM), width, height (upright, pixels), mode (Pillow's)."""
    image, frames, kind, end, scans = None, 1, "a DICOM series", b"", 1
    with _in_words("broken header: "):
        if content[128:132] == b"DICM":
            width, height, mode, frames = _dicom_header(content)
        else:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            width, height, mode = *image.size, image.mode
            if 5 <= _orientation(image) <= 8:
                width, height = height, width
            if image.format == "PNG":
                kind, frames, end = "an animation", getattr(image, "n_frames", 1), b"IEND"
                mode = mode if content[24] < 16 else "RGB;16" if content[25] in (2, 6) else "I;16"
            else:
                end, scans = b"\xff\xd9", content.count(b"\xff\xda")
    if frames > 1:
        raise UnreadableError(f"{kind} of {frames} frames; one image expected")
    if end not in content.rstrip(b"\0")[-65536:]:
        raise UnreadableError("truncated: the end of the image is missing")
    if min(width, height) < SMALLEST_SIDE or width * height > MOST_PIXELS:
        limits = f"at least {SMALLEST_SIDE} x {SMALLEST_SIDE} and at most {MOST_PIXELS:,} in all"
        raise UnreadableError(f"{width} x {height} pixels; {limits} expected")
    if scans * width * height > MOST_SCANNED:
        raise UnreadableError(f"{scans} scans of {width} x {height} pixels; at most {MOST_SCANNED:,} in all expected")
    return image, width, height, mode


def _orientation(image: Image.Image) -> int:
    """Return what EXIF says: 1 is upright, 2 to 8 are mirrored or turned."""
    return image.getexif().get(ORIENTATION, 1) if "exif" in image.info else 1


@contextlib.contextmanager
def _in_words(before: str) -> Iterator[None]:
    """Turn whatever a decoder raises on a broken file (OSError, SyntaxError, struct.error, ...) into one error."""
    try:
        yield
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError("not a JPEG, PNG or DICOM image") from None
    except Exception as error:
        raise UnreadableError(f"{before}{error}") from error


def _listen(content: bytes, image: Image.Image) -> None:
    """Let libjpeg read a whole JPEG; raise ValueError with its first warning, or with what no encoder writes.

    A Huffman table holds each of its symbols once. The means of blocks of 8 x 8 pixels lie between black and white:
    after a wrong byte they drift away from the true ones, of which libjpeg says nothing. An eighth of the size keeps
    the means and spares the arithmetic; a fourth of their quantization step shows those beyond black and white.
    """
    soft, at, old, new = bytearray(content), 2, 1, 1
    while content[at : at + 1] == b"\xff" and content[at + 1] != 0xDA:
        start, end = at + 4, at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if content[at + 1] == 0xDB and content[start] == 0:
            old, new = content[start + 1], -(-content[start + 1] // 4)
            soft[start + 1] = new
        while content[at + 1] == 0xC4 and start < end:
            symbols = content[start + 17 : start + 17 + sum(content[start + 1 : start + 17])]
            if not _meaningful(symbols):
                raise ValueError("a Huffman table has a symbol twice, or one of no meaning")
            start += 17 + len(symbols)
        at = end
    if not all(_smooth(tuple(table)) for table in image.quantization.values()):
        raise ValueError("a quantization table has an odd entry")
    if image.mode == "CMYK" and image.layer[0][1:3] != image.layer[3][1:3]:
        return  # a way to subsample that simplejpeg does not know
    means = simplejpeg.decode_jpeg(bytes(soft), "GRAY", min_height=1, min_width=1, min_factor=8)
    if image.mode != "CMYK" and np.abs(means - 128.0).max() > 132 * new / old + new / 16 + 1:
        raise ValueError("blocks of pixels are darker than black or brighter than white")


@functools.lru_cache
def _meaningful(symbols: bytes) -> bool:
    """Whether a Huffman table holds each symbol once, and no value of more than 11 bits."""
    return len(set(symbols)) == len(symbols) and all(symbol & 15 <= 11 for symbol in symbols)


@functools.lru_cache
def _smooth(table: tuple[int, ...]) -> bool:
    """Whether each entry of a quantization table is like its neighbors, as those of all encoders are."""
    steps = np.asarray(table, float)
    near = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(steps, 2, "edge"), 5), axis=1)
    return bool((steps.min() > 0) and (steps <= 4 * near + 8).all() and (near <= 4 * steps + 8).all())


def read_image(path: str | Path, channels: int = 3, mode: str = "") -> np.ndarray:
    """Decode one image at full size, upright.

    Transparency is dropped; palettes and CMYK become RGB.

    Parameters
    ----------
    path : str or Path
        A JPEG, PNG or DICOM file.
    channels : int
        3 (RGB) or 1 (gray).
    mode : str
        As the index says, where a PNG of 16 bits has for example "I;12": the upper 8 of 12 bits are taken, as for all
        files of its folder. Without it, the depth is read off this file alone.

    Returns
    -------
    uint8 array, height x width x channels, 0 to 255

    Raises
    ------
    UnreadableError
        If the file is broken; the text names the file and the reason.
    """
    return _as_array(_open_upright(path, mode=mode), channels)


def read_resized(path: str | Path, size: int, channels: int, interpolation: str) -> np.ndarray:
    """Decode and resize one image (see `load_images`); uint8, size x size x channels."""
    if interpolation == "nearest":
        # Resizing first gives the same pixels as Keras's load_img, which converts first, at a fraction of the work.
        image = _open_upright(path)
        image = image if image.mode in ("L", "RGB") else image.convert("L" if channels == 1 else "RGB")
        return _as_array(image.resize((size, size), Image.Resampling.NEAREST), channels)
    # Three times the size keeps the average an average: on originals it differs from the full decode by 0.6, 0.4 and
    # 0.1 of 255 gray levels on average at 32, 64 and 128 px, and takes 2.8 instead of 9.9 ms per image at 64 px.
    area = interpolation == "area"
    full = _as_array(_open_upright(path, shrink_to=3 * size if area else None), channels)
    small = cv2.resize(full, (size, size), interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR)
    return small.reshape(size, size, channels)


def _as_array(image: Image.Image, channels: int) -> np.ndarray:
    """Convert a Pillow image to uint8 height x width x channels."""
    return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(image.height, image.width, channels)


def _open_upright(path: str | Path, shrink_to: int | None = None, mode: str = "") -> Image.Image:
    """Decode one image to an 8-bit Pillow image; `shrink_to` lets a JPEG be decoded at a half, quarter or eighth."""
    try:
        content = _content(path)
        return _decode(content, _open(content)[0], shrink_to, mode)
    except UnreadableError as error:
        raise UnreadableError(f"{Path(path).name}: {error}") from error


def _decode(content: bytes, image: Image.Image | None, shrink_to: int | None = None, mode: str = "") -> Image.Image:
    """Decode what `_open` has opened."""
    with _in_words("cannot be decoded: "):
        if image is None:
            return Image.fromarray(_read_dicom(content))
        if image.format == "PNG" and content[24] == 16:
            values, bits = _read_png(content)
            values >>= int(mode.partition(";")[2] or bits) - 8
            return Image.fromarray(values.clip(0, 255).astype(np.uint8))
        if shrink_to is not None:
            image.draft(None, (shrink_to, shrink_to))
        image.load()
        return ImageOps.exif_transpose(image) if _orientation(image) != 1 else image


def _read_png(content: bytes) -> tuple[np.ndarray, int]:
    """Decode a PNG with all its bits: height x width, or RGB (which Pillow cuts to 8 bits), and the bits that it needs.

    Above these bits is one pixel of a hundred, or one of ten if hardly any lies just above: burnt-in marks.
    """
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("its rows cannot be read")
    values = values if values.ndim == 2 else np.ascontiguousarray(values[..., 2::-1])
    # A Python integer that the dtype cannot hold crashes NumPy 2.0 and 2.2 when several threads compare with it.
    above = {bits: (values[::2, ::2] >= np.uint32(2**bits)).mean() for bits in (8, 9, 10, 11, 12, 13, 14, 15, 16)}
    marks = {bits for bits in (8, 10, 12, 14) if above[bits] < 0.1 and above[bits] - above[bits + 1] < 0.002}
    return values, next(bits for bits in (8, 10, 12, 14, 16) if above[bits] < 0.01 or bits in marks)


def _dicom_header(content: bytes) -> tuple[int, int, str, int]:
    import pydicom  # here, because it takes a quarter of a second to load and few need it

    header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
    mode = "RGB" if header.SamplesPerPixel == 3 else "L" if header.BitsAllocated == 8 else "I"
    return int(header.Columns), int(header.Rows), mode, int(header.get("NumberOfFrames") or 1)


def _read_dicom(content: bytes) -> np.ndarray:
    """Decode a DICOM file to uint8 as a viewer shows it: its modality, its window or table, bone white.

    The look-up functions are pydicom's. What is left is to know the range of their results from the header alone, so
    that a picture does not depend on its own brightest pixel.
    """
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_presentation_lut, apply_voi_lut

    data = pydicom.dcmread(io.BytesIO(content))
    for tag in [element.tag for element in data if element.is_empty]:
        del data[tag]
    kind, shape, bits = (data.get(name) for name in ("PhotometricInterpretation", "PresentationLUTShape", "BitsStored"))
    if not (kind and bits) or (kind, shape) == ("MONOCHROME1", "IDENTITY"):  # the latter says bone is black, and white
        raise UnreadableError(f"DICOM of unknown depth or polarity: BitsStored {bits}, {kind}, LUT shape {shape}")
    if data.file_meta.TransferSyntaxUID == pydicom.uid.JPEGBaseline8Bit:
        frame = pydicom.encaps.get_frame(data.PixelData, 0, number_of_frames=1)
        _listen(frame, Image.open(io.BytesIO(frame)))
    raw = data.pixel_array
    if kind == "PALETTE COLOR":
        raw = apply_color_lut(raw, data)[..., :3]
        bits = 8 * raw.itemsize
    if raw.ndim == 3:  # pydicom has turned YBR into RGB
        return (raw >> max(bits - 8, 0)).astype(np.uint8)
    low = -(2 ** (bits - 1)) * data.PixelRepresentation
    values = apply_modality_lut(np.append(raw, np.array([low, low + 2**bits - 1], raw.dtype)), data)
    values, ends = values[:-2].reshape(raw.shape), values[-2:].astype(float)
    tables = [name for name in ("ModalityLUTSequence", "VOILUTSequence") if name in data]
    values = apply_voi_lut(np.rint(values).astype(np.int64) if "VOILUTSequence" in data else values, data)
    for name in tables:
        ends = np.array([0.0, 2 ** data[name][0].LUTDescriptor[2] - 1])
    if "WindowWidth" not in data:  # pydicom's window with a negative slope runs from the higher end to the lower
        ends.sort()
    gray = ((values - ends[0]) / (ends[1] - ends[0])).clip(0, 1)
    if "PresentationLUTSequence" in data:  # pydicom stretches what it gets: with both ends there is nothing to stretch
        gray = apply_presentation_lut(np.append(gray, [0, 1]), data)[:-2].reshape(raw.shape)
        gray = gray / (2 ** data.PresentationLUTSequence[0].LUTDescriptor[2] - 1)
    elif {"MONOCHROME1": True, "MONOCHROME2": False}[kind] or shape == "INVERSE":
        gray = 1 - gray
    if "PixelPaddingValue" in data:  # what the machine did not see
        around = np.sort((data.PixelPaddingValue, data.get("PixelPaddingRangeLimit", data.PixelPaddingValue)))
        gray = np.where((raw >= around[0]) & (raw <= around[1]), 0, gray)
    return (255 * gray).round().astype(np.uint8)
