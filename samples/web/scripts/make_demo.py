"""Write the content that the page opens on start: a package of the embedded demo model, and digits of the new domain.

    python samples/web/scripts/make_demo.py            # into samples/web/public, about a minute

For another model, put its package (`adabet-onnx menu` or `adabet-onnx device`) and a site.json in the same folder.
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
    parser.add_argument("--entries", type=int, default=6, help="maximum number of choices of layers")
    parser.add_argument("--no-check", dest="check", action="store_false", help="do not verify the training graphs")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    root = resources.files("adabet_onnx.demo")
    with resources.as_file(root / "digits.onnx") as model, resources.as_file(root / "digits_shifted.npz") as data:
        scores = score(model, data)
        folder = arguments.output / "packages" / "demo"
        folder.parent.mkdir(exist_ok=True)
        packing = Packing(profile="webgpu")  # runs on any CPU too
        make_menu(model, folder, scores=scores, entries=arguments.entries, packing=packing, check=arguments.check)
        with np.load(data) as arrays:
            (arguments.output / "packages" / "demo-example.bin").write_bytes(example(arrays))
    site = {"title": "Handwritten digits", "package": "packages/demo", "example": "packages/demo-example.bin"}
    (arguments.output / "site.json").write_text(json.dumps(site, indent=1) + "\n")


def example(arrays: np.lib.npyio.NpzFile) -> bytes:
    """Pack images: a magic number, version, height, width, channels, numbers of training and test images (each four
    bytes, little-endian); then a byte for each label, then the pixels."""
    pixels = np.concatenate([arrays["x_train"], arrays["x_test"]])
    labels = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.uint8)
    head = struct.pack("<6I", VERSION, *pixels.shape[1:], len(arrays["x_train"]), len(arrays["x_test"]))
    return MAGIC + head + labels.tobytes() + pixels.tobytes()


if __name__ == "__main__":
    main()
