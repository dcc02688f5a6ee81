"""Read one image file, of whatever kind a hospital or a web page gives: its header, or its pixels, upright, 8 bits."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from xrayhelpers._machine import DataError

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".dcm", ".dicom")
INTERPOLATIONS = ("nearest", "bilinear", "area")
FORMATS = ("JPEG", "PNG")  # the JPEG reader also opens the photographs of several pictures (MPO) of telephones
SMALLEST_SIDE, MOST_PIXELS = 16, 64_000_000
ORIENTATION = 274  # the EXIF tag; 5 to 8 swap width and height


class UnreadableError(DataError):
    """One file is not an image that this package can use; the text is the reason alone."""


def read_header(path: str | Path) -> tuple[int, int, str]:
    """Read width, height (upright, pixels) and color mode (Pillow's) of an image without decoding it.

    Raises
    ------
    UnreadableError
        With the reason in words, for whatever is wrong with the file.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise UnreadableError("empty file (0 bytes)")
            start = file.read(132)
            if start[128:] == b"DICM":
                return _dicom_header(path)
            file.seek(max(0, size - 65536))
            tail = file.read()
        with Image.open(path, formats=FORMATS) as image:
            width, height, mode, frames = *image.size, image.mode, getattr(image, "n_frames", 1)
            if "exif" in image.info and image.getexif().get(ORIENTATION, 1) >= 5:
                width, height = height, width
            end = b"IEND" if image.format == "PNG" else b"\xff\xd9"
            animated = image.format == "PNG" and frames > 1
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError("not a JPEG, PNG or DICOM image") from None
    except OSError as error:
        raise UnreadableError(error.strerror or f"broken header: {error}") from error
    except Exception as error:  # Pillow's parsers raise many kinds of errors on broken files
        raise UnreadableError(f"broken header: {error}") from error
    if animated:
        raise UnreadableError(f"an animation of {frames} frames; one image expected")
    if end not in tail:
        raise UnreadableError("truncated: the end of the image is missing")
    return _checked(width, height, mode)


def _checked(width: int, height: int, mode: str) -> tuple[int, int, str]:
    if min(width, height) < SMALLEST_SIDE:
        raise UnreadableError(f"{width} x {height} pixels; at least {SMALLEST_SIDE} x {SMALLEST_SIDE} expected")
    if width * height > MOST_PIXELS:
        raise UnreadableError(f"{width} x {height} pixels; at most {MOST_PIXELS:,} in all expected")
    return width, height, mode


def _dicom_header(path: str | Path) -> tuple[int, int, str]:
    try:
        import pydicom
    except ImportError:
        raise UnreadableError("a DICOM file: pip install pydicom") from None
    header = pydicom.dcmread(path, stop_before_pixels=True)
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise UnreadableError(f"a DICOM series of {header.NumberOfFrames} frames; one image expected")
    mode = "RGB" if header.SamplesPerPixel == 3 else "L" if header.BitsAllocated == 8 else "I;16"
    return _checked(int(header.Columns), int(header.Rows), mode)


def read_image(path: str | Path, channels: int = 3) -> np.ndarray:
    """Decode one image at full size, upright.

    16-bit images are scaled by 12 bits where no value is above 4095 (as radiographs are), else by 16. Transparency is
    dropped; palettes and CMYK become RGB.

    Parameters
    ----------
    path : str or Path
        A JPEG, PNG or DICOM file.
    channels : int
        3 (RGB) or 1 (grey).

    Returns
    -------
    uint8 array, height x width x channels, 0 to 255

    Raises
    ------
    UnreadableError
        If the file is broken; the text names the file and the reason.
    """
    return _as_array(_open_upright(path), channels)


def read_resized(path: str | Path, size: int, channels: int, interpolation: str) -> np.ndarray:
    """Decode and resize one image (see `load_images`); uint8, size x size x channels."""
    if interpolation == "nearest":
        # Resizing first gives the same pixels as Keras's load_img, which converts first, at a fraction of the work.
        image = _open_upright(path)
        palette = image.mode not in ("L", "RGB")
        image = image.convert("L" if channels == 1 else "RGB") if palette else image
        return _as_array(image.resize((size, size), Image.Resampling.NEAREST), channels)
    # Three times the size keeps the average an average: on originals it differs from the full decode by 0.6, 0.4 and
    # 0.1 of 255 grey levels on average at 32, 64 and 128 px, and takes 2.8 instead of 9.9 ms per image at 64 px.
    area = interpolation == "area"
    full = _as_array(_open_upright(path, shrink_to=3 * size if area else None), channels)
    small = cv2.resize(full, (size, size), interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR)
    return small.reshape(size, size, channels)


def _as_array(image: Image.Image, channels: int) -> np.ndarray:
    """Convert a Pillow image to uint8 height x width x channels."""
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return array[..., None] if channels == 1 else array


def _open_upright(path: str | Path, shrink_to: int | None = None) -> Image.Image:
    """Decode one image to an 8-bit Pillow image; `shrink_to` lets a JPEG be decoded at a half, quarter or eighth."""
    try:
        read_header(path)  # what the index refuses (too large, truncated, animated) is refused here as well
        with open(path, "rb") as file:
            if file.read(132)[128:] == b"DICM":
                return Image.fromarray(_read_dicom(path))
        with Image.open(path, formats=FORMATS) as image:
            if shrink_to is not None:
                image.draft(None, (shrink_to, shrink_to))
            image.load()
            if image.mode.startswith("I"):
                values = np.asarray(image).astype(np.int64)
                image = Image.fromarray((values >> (4 if values.max() <= 4095 else 8)).clip(0, 255).astype(np.uint8))
            elif "exif" in image.info and image.getexif().get(ORIENTATION, 1) != 1:
                image = ImageOps.exif_transpose(image)
            return image
    except UnreadableError as error:
        raise UnreadableError(f"{Path(path).name}: {error}") from error
    except Exception as error:  # decoders raise anything on broken files: OSError, SyntaxError, struct.error, ...
        raise UnreadableError(f"{Path(path).name}: cannot be decoded ({error})") from error


def _read_dicom(path: str | Path) -> np.ndarray:
    """Decode a DICOM file to uint8: rescaled, windowed by its own window, else by its bits stored; bone is white."""
    import pydicom

    data = pydicom.dcmread(path)
    values = data.pixel_array
    if values.ndim == 3:
        return np.ascontiguousarray(values).astype(np.uint8)
    bits, signed = int(data.BitsStored), int(data.PixelRepresentation)
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], dtype=np.float32)
    slope, shift = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    values, (low, high) = values * np.float32(slope) + np.float32(shift), ends * slope + shift
    if data.get("WindowCenter") is not None and data.get("WindowWidth") is not None:
        center, width = (float(np.atleast_1d(data[tag].value)[0]) for tag in ("WindowCenter", "WindowWidth"))
        low, high = center - width / 2, center + width / 2
    grey = ((values - low) / max(high - low, 1e-6)).clip(0, 1) * 255
    return (255 - grey if data.PhotometricInterpretation == "MONOCHROME1" else grey).round().astype(np.uint8)
