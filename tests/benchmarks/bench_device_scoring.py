"""How far the scores of a device agree with `score` by exact distances, and what they take: by sketch, samples, points.

    python tests/benchmarks/bench_device_scoring.py [demo] [resnet20] [mobilenetv2] [--draws 5]

Each draw takes other samples of the new domain. The reference is `score` with exact distances, 128 of these samples and
1,024 subsets of 32. A device takes the first of them, by the rule of docs/device-package.md, from sketches with the
draw's number as their seed. Printed are Kendall's tau-b of all layers, the mean over draws and the lowest; how many of
the tenth of the layers that score highest are the same; what the sketches of all samples take, and the seconds of
the part that is not forward passes (Python, one core). The last row of a model is `score` against itself with samples
of another draw: what sampling alone does. The models and data are looked for in ../shared; half an hour.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adabet_onnx import Data, Scoring, open_model, score
from adabet_onnx import runtime as ort
from adabet_onnx.data.feeder import Feeder
from adabet_onnx.device.parts import ScoredLayer, ScoringPlan
from adabet_onnx.device.scoring import scores
from adabet_onnx.kendall import kendall_tau
from adabet_onnx.scoring.probes import add_probes
