"""Draw the README's picture from the phantom: python tools/picture.py"""

from pathlib import Path

from xrayhelpers import dataset, pixels, plots, sources

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "phantom.png"


def main():
    index = dataset.load_index(sources.open_data("phantom").folder)
    rows = index[index["split"] == "train"].groupby("cause").head(2)
    images = [pixels.read_image(path, channels=1) for path in rows["path"]]
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_bytes(plots.png(plots.image_grid(images, rows["cause"].tolist(), columns=6), largest=150_000))


if __name__ == "__main__":
    main()
