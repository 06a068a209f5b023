"""The file of a stability study, and its result in a sentence.

``stability.json``: format "adabet-onnx/stability", version 1, with
    model_sha256, model_file, preprocessing
    points          N of one Betti number
    rho, top        the fraction of layers, and the number of layers
    seeds           number of shuffles
    layers          names, in model order
    agreements      a list with, for each measure and n: measure, samples (n), groups (per seed), pairs, tau, tau_sd,
                    tau_min, overlap, seeds_tau (between the first groups of two seeds; null for one seed)
    enough          by measure: the smallest n with an overlap of at least FIRM, or null if there is none
    example         for each layer the b1_hat of each group (seed 0), which the plot shows
    clusters        null, or a list with, for each layer: layer, clusters, noise, b1 (see `clusters`)
    notes           what is missing, and why (missing in older files)
    data            how the data was interpreted, in one line (null or missing in older files)
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from ..drawing import finished
from ..frames import frame
from ..options import typed
from ..records import Entries, read_record, write_json
from ..showing import counted, html_table, one_line
from .agreements import FIRM, Agreement
from .clusters import Clusters
from .drawing import draw_stability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT, VERSION = "adabet-onnx/stability", 1
_MADE_BY = "`stability`"


@dataclass(frozen=True)
class Stability:
    """The result of `stability`; the attributes are the entries of the file."""

    model_sha256: str
    model_file: str | None
    preprocessing: dict[str, Any]
    points: int
    rho: float
    top: int
    seeds: int
    layers: tuple[str, ...]
    agreements: tuple[Agreement, ...]
    enough: dict[str, int | None]
    example_samples: int
    example: tuple[tuple[float, ...], ...]
    clusters: tuple[Clusters, ...] | None = None
    notes: tuple[str, ...] = ()
    data: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @typed
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self.to_json())

    def to_dataframe(self, library: str | None = None) -> Any:
        """A data frame with a row for each measure and group size; the columns are the entries of ``agreements``.

        Args:
            library: ``"pandas"`` or ``"polars"``; None: pandas where it is installed, else polars.

        Returns:
            A DataFrame of that library.

        Raises:
            UsageError: ``library`` has another value.
            RuntimeMissingError: the library is not installed.
        """
        return frame([asdict(row) for row in self.agreements], [item.name for item in fields(Agreement)], library)

    @typed
    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Plot b1_hat of every layer over disjoint groups, agreement by group size, and clusters if there are any.

        Args:
            path: also write the plot to this file: ``.png``, ``.svg`` or ``.pdf``.

        Returns:
            The figure, which a notebook displays.

        Raises:
            UsageError: the file has another suffix.
            OutputError: the file cannot be written.
        """
        figure = draw_stability(
            self.layers, self.example, self.example_samples, self.agreements, self.top, self.clusters
        )
        return finished(figure, path)

    def __repr__(self) -> str:
        return one_line(self, counted(len(self.layers), "layer"), counted(self.seeds, "shuffle"), self.sentence())

    def _repr_html_(self) -> str:
        headings = ("ranked by", "samples", "groups", "Kendall tau", "±", "worst", f"top {self.top} in common")
        rows = [
            (
                row.measure,
                row.samples,
                row.groups,
                f"{row.tau:.2f}",
                f"{row.tau_sd:.2f}",
                f"{row.tau_min:.2f}",
                f"{row.overlap:.0%}",
            )
            for row in self.agreements
        ]
        title = f"Rankings of {counted(len(self.layers), 'layer')} by disjoint groups of samples"
        return html_table(title, headings, rows, lines=[self.sentence(), *self.notes])

    def sentence(self) -> str:
        """A sentence on how many samples a stable choice needs."""
        tried = max(row.samples for row in self.agreements)
        enough = self.enough.get("b1_hat")
        if enough is not None:
            return (
                f"{enough} samples give a firm choice: two disjoint groups of {enough} agree on at least "
                f"{FIRM:.0%} of the top {self.top} layers"
            )
        best = max((row for row in self.agreements if row.measure == "b1_hat"), key=lambda row: row.samples)
        return (
            f"no firm choice with up to {tried} samples: two disjoint groups of {best.samples} agree on "
            f"{best.overlap:.0%} of the top {self.top} layers"
        )


def load_stability(path: str | os.PathLike[str]) -> Stability:
    """Read a stability file.

    Raises:
        RecordError: the file is not a stability file, or is damaged.
    """
    record = Entries(read_record(path, FORMAT, VERSION, _MADE_BY), str(path), _MADE_BY)
    nothing = type(None)
    rows = []
    for i, entry in enumerate(record.take_list("agreements", dict)):
        row = Entries(entry, f"{path}, agreement {i},", _MADE_BY)
        rows.append(
            Agreement(
                measure=row.take("measure", str),
                samples=row.take("samples", int),
                groups=row.take("groups", int),
                pairs=row.take("pairs", int),
                tau=float(row.take("tau", float)),
                tau_sd=float(row.take("tau_sd", float)),
                tau_min=float(row.take("tau_min", float)),
                overlap=float(row.take("overlap", float)),
                seeds_tau=row.take("seeds_tau", float, nothing),
            )
        )
    layers = record.names("layers")
    example = record.take_list("example", list)
    if (
        not {"b1_hat"} <= {row.measure for row in rows}
        or len(example) != len(layers)
        or any(not isinstance(value, int | float) for line in example for value in line)
    ):
        raise record.damaged("'agreements' lacks b1_hat, or 'example' is not a list of numbers per layer")
    clusters = None
    if record.get_optional("clusters", None, list, nothing) is not None:
        entries = [Entries(entry, f"{path}, clusters,", _MADE_BY) for entry in record.take_list("clusters", dict)]
        clusters = tuple(
            Clusters(entry.take("layer", str), *(entry.take(key, int) for key in ("clusters", "noise", "b1")))
            for entry in entries
        )
    enough = record.inside("enough")
    return Stability(
        model_sha256=record.take("model_sha256", str),
        model_file=record.take("model_file", str, nothing),
        preprocessing=record.take("preprocessing", dict),
        points=record.take("points", int),
        rho=float(record.take("rho", float)),
        top=record.take("top", int),
        seeds=record.take("seeds", int),
        layers=layers,
        agreements=tuple(rows),
        enough={row.measure: enough.take(row.measure, int, nothing) for row in rows},
        example_samples=record.take("example_samples", int),
        example=tuple(tuple(float(value) for value in line) for line in example),
        clusters=clusters,
        notes=tuple(record.take_list("notes", str)) if record.get_optional("notes", None, list) is not None else (),
        data=record.get_optional("data", None, str, nothing),
    )
