"""Draw the README's picture from the phantom: python tools/picture.py"""

import io
from pathlib import Path

from xrayhelpers._images import read_image
from xrayhelpers._machine import write_atomic
from xrayhelpers.data import load_index, open_data
from xrayhelpers.plots import image_grid

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "phantom.png"


def main():
    index = load_index(open_data("phantom").folder)
    rows = index[index["split"] == "train"].groupby("cause").head(2)
    images = [read_image(path, channels=1)[..., 0] for path in rows["path"]]
    figure, content = image_grid(images, rows["cause"].tolist(), columns=6), io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    write_atomic(PICTURE, content.getvalue())


if __name__ == "__main__":
    main()
