"""Write what the page opens by itself: a package of the embedded demo model, and digits of the new domain to try it on.

    python samples/web/scripts/make_demo.py            # into samples/web/public, about a minute

Another model: put its package (`adabet-onnx menu` or `adabet-onnx device`) and a site.json in the same place.
"""

from __future__ import annotations

import argparse
import json
import struct
from importlib import resources
from pathlib import Path

import numpy as np

from adabet_onnx import Packing, make_menu, score

HERE = Path(__file__).resolve().parent.parent
MAGIC, VERSION = b"ADBX", 1


def main() -> None:
    """Write package, example data and site.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "public")
    parser.add_argument("--entries", type=int, default=6, help="choices of layers at most")
    parser.add_argument("--no-check", dest="check", action="store_false", help="do not verify the training graphs")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    root = resources.files("adabet_onnx.demo")
    with resources.as_file(root / "digits.onnx") as model, resources.as_file(root / "digits_shifted.npz") as data:
        scores = score(model, data)
        folder = given.output / "packages" / "demo"
        folder.parent.mkdir(exist_ok=True)
        packing = Packing(profile="webgpu")  # which any processor runs too
        make_menu(model, folder, scores=scores, entries=given.entries, packing=packing, check=given.check)
        with np.load(data) as arrays:
            (given.output / "packages" / "demo-example.bin").write_bytes(example(arrays))
    site = {"title": "Handwritten digits", "package": "packages/demo", "example": "packages/demo-example.bin"}
    (given.output / "site.json").write_text(json.dumps(site, indent=1) + "\n")


def example(arrays: np.lib.npyio.NpzFile) -> bytes:
    """Pack pictures: what it is, its version, height, width, channels, how many to train with and to test with (each
    four bytes, little-endian); then a byte for each label, then the pixels."""
    pixels = np.concatenate([arrays["x_train"], arrays["x_test"]])
    labels = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.uint8)
    head = struct.pack("<6I", VERSION, *pixels.shape[1:], len(arrays["x_train"]), len(arrays["x_test"]))
    return MAGIC + head + labels.tobytes() + pixels.tobytes()


if __name__ == "__main__":
    main()
