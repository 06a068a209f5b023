"""What can be trained, by architecture, origin of the file, selection and backend; and whether `check` predicted it.

Prints a table in Markdown (make matrix writes docs/support-matrix.md). A row is one selection of one model:

    forward     largest difference of the training graph's logits from the model's, over the largest logit (or 1)
    gradient    largest difference from torch autograd in float64 over the same ONNX graph
                (tests/helpers/torch_oracle.py), over each parameter's largest gradient; "fd" before it: from finite
                differences of the loss, where torch does not know an operator. Of up to three random inputs: a Relu
                within rounding of its kink goes either way. Where millions of them leave no input without one, the
                largest of the three, and in brackets how far torch itself is from float64 when it computes in float32;
                twice that is right
    loss        after five steps on the same samples over that before; each step is to lower it by 5 %, to first order
                (or, where that is too long a step, by less)
    others      whether a step changed anything but what was selected (the model with the trained values in it must give
                the trained logits)
    export      largest difference of the exported model's logits from the trained ones
    check       whether `check_model` said beforehand what then happened

Each model is tried in a separate process, so that a crash of a runtime becomes a row.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "helpers"), str(TESTS.parent)]

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnx_ir as ir  # noqa: E402

from adabet_onnx import AdabetError, Choices, check_model, export_model, make_artifacts, open_model  # noqa: E402
from adabet_onnx.runtime import in_memory, run_session  # noqa: E402
from adabet_onnx.selection.record import Selection  # noqa: E402
from adabet_onnx.study.ray_cluster import connect  # noqa: E402
from adabet_onnx.trainability.preflight import loss_obstacle  # noqa: E402
from adabet_onnx.training.history import LAST, PROPERTY  # noqa: E402
from adabet_onnx.training.samples import sample_feeds, sample_labels  # noqa: E402
from adabet_onnx.training.selfcheck import check  # noqa: E402

BACKENDS = ("portable", "ort")
SELECTIONS = ("first", "middle", "last", "10 %", "all")
GOOD = 1e-4  # a gradient further from torch's is wrong
_BATCH = 4
_INPUTS = 3  # tried at most
_STEPS, _FALLS = 5, (0.05, 0.005)


@dataclass(frozen=True)
class Row:
    """One selection of one model with one backend; see the module. None: not reached."""

    model: str
    exporter: str
    selection: str
    layers: int
    backend: str
    foreseen: bool
    error: str | None = None
    forward: float | None = None
    gradient: float | None = None
    by: str = "torch"
    rounding: float | None = None
    loss: float | None = None
    others: bool | None = None
    export: float | None = None

    @property
    def trained(self) -> bool:
        """Whether artifacts were made, their gradient is right and the loss falls."""
        limit = max(GOOD, 2 * (self.rounding or 0.0)) if self.by == "torch" else 0.05
        right = self.gradient is not None and self.gradient <= limit
        return self.error is None and right and self.loss is not None and self.loss < 1

    @property
    def agrees(self) -> bool:
        """Whether check predicted it."""
        return self.foreseen == self.trained

    def cells(self) -> list[str]:
        """As in the table."""

        def number(value: float | None) -> str:
            return "-" if value is None else f"{value:.0e}"

        mark = "fd " if self.by != "torch" and self.gradient is not None else ""
        outcome = "trains" if self.trained else "refused" if self.error is not None else "wrong"
        others = {None: "-", True: "unchanged", False: "CHANGED"}[self.others]
        names = [self.model, self.exporter, f"{self.selection} ({self.layers})", self.backend, outcome]
        loss = "-" if self.loss is None else f"{self.loss:.2f}"
        gradient = mark + number(self.gradient)
        gradient += f" (float32 {number(self.rounding)})" if self.rounding is not None else ""
        numbers = [number(self.forward), gradient, loss, others, number(self.export)]
        return [*names, *numbers, "agreed" if self.agrees else "DISAGREED"]


HEADINGS = ["model", "from", "selection (layers)", "backend", "outcome", "forward", "gradient", "loss"]
HEADINGS += ["others", "export", "check"]


def selections(names: list[str]) -> dict[str, list[str]]:
    """Layers of each selection, in model order."""
    tenth = max(1, len(names) // 10)
    spread = [names[i * len(names) // tenth] for i in range(tenth)]
    return dict(zip(SELECTIONS, ([names[0]], [names[len(names) // 2]], [names[-1]], spread, list(names)), strict=True))


def rows(
    name: str, exporter: str, kinds: tuple[str, ...] = SELECTIONS, backends: tuple[str, ...] = BACKENDS
) -> Iterator[Row]:
    """Try one model."""
    from models.origins import load

    model = open_model(load(name, exporter))
    loss = "cross-entropy" if loss_obstacle(model, "cross-entropy", "ort") is None else "mse"
    checked = check_model(model, loss=loss)
    verdicts = {layer.name: layer for layer in checked.layers}
    parameters = {layer.name: [parameter.name for parameter in layer.parameters] for layer in model.layers}
    for what, layers in selections([layer.name for layer in model.layers]).items():
        if what not in kinds:
            continue
        chosen = tuple(dict.fromkeys(parameter for layer in layers for parameter in parameters[layer]))
        selection = Selection(model.sha256, "layers", tuple(layers), chosen)
        for backend in backends:
            foreseen = all(getattr(verdicts[layer], backend).trainable for layer in layers)
            row = Row(name, exporter, what, len(layers), backend, foreseen)
            yield _tried(row, model, selection, loss)


def _tried(row: Row, model: Any, selection: Selection, loss: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {}
        try:
            made = make_artifacts(
                model,
                selection,
                Path(folder) / "a",
                backend=row.backend,
                loss=loss,
                choices=Choices(optimizer="sgd"),
                check=False,
            )
            errors, rounding = [], []
            for seed in range(_INPUTS):
                feeds = sample_feeds(made, _BATCH, seed)
                logits = _logits(made.file("model"), str(made.content["model_logits"]), feeds)
                labels = sample_labels(made, logits, seed)
                found |= _gradient(made, feeds, labels, loss)
                if found["by"] != "torch" or found["gradient"] <= GOOD:
                    break
                errors.append(found["gradient"])
                rounding.append(_rounding(made, feeds, labels, loss))
            else:
                found |= {"gradient": max(errors), "rounding": max(rounding)}
            if found["by"] != "torch":
                found["gradient"] = None  # until the finite differences
            result = check(made)
            found |= {"forward": result["outputs"], "others": True}
            if found["by"] != "torch" and result["gradient"] is not None:
                found["gradient"] = result["gradient"]["error"]
            for fall in _FALLS:
                session = made.session(made.initial)
                found["loss"] = _train(session, feeds, labels, fall)
                if found["loss"] < 1:
                    break
            session.set_property(PROPERTY, "{}")
            (made.folder / LAST).parent.mkdir()
            session.save(made.folder / LAST)
            trained = session.evaluate(feeds, labels)[1]
            found["export"] = _export(made, Path(folder) / "adapted.onnx", feeds, trained)
        except AdabetError as error:
            found["error"] = str(error)
        return Row(**(asdict(row) | found))


def _gradient(made: Any, feeds: dict[str, np.ndarray], labels: np.ndarray, loss: str) -> dict[str, Any]:
    """Largest error of a gradient, against torch where it can."""
    import torch_oracle

    session = made.session(made.initial, threads=1)
    session.gradients(feeds, labels)
    proto = onnx.load(made.file("model"))
    try:
        _, expected = torch_oracle.gradients(
            proto, feeds, labels, made.parameters, loss=loss, logits=str(made.content["model_logits"])
        )
    except NotImplementedError:
        return {"by": "differences"}
    return {"by": "torch", "gradient": _error(expected, session.gradient)}


def _rounding(made: Any, feeds: dict[str, np.ndarray], labels: np.ndarray, loss: str) -> float:
    """How far torch's gradients in float32 are from those in float64, as `_gradient` measures it."""
    import torch
    import torch_oracle

    proto, logits = onnx.load(made.file("model")), str(made.content["model_logits"])
    both = [
        torch_oracle.gradients(proto, feeds, labels, made.parameters, loss=loss, logits=logits, dtype=dtype)[1]
        for dtype in (torch.float64, torch.float32)
    ]
    return _error(both[0], lambda name: both[1][name])


def _error(expected: dict[str, np.ndarray], found: Callable[[str], np.ndarray]) -> float:
    """The largest difference over each parameter's largest gradient; parameters without any do not count."""
    largest = {name: float(np.abs(value).max()) for name, value in expected.items()}
    floor = 1e-6 * max(largest.values())
    errors = (
        float(np.abs(found(name) - value).max()) / largest[name]
        for name, value in expected.items()
        if largest[name] > floor
    )
    return max(errors, default=0.0)


def _train(session: Any, feeds: dict[str, np.ndarray], labels: np.ndarray, fall: float) -> float:
    """A few steps, each as long as ought to lower the loss by `fall`; the loss after them over that before."""
    first = session.evaluate(feeds, labels)[0]
    for _ in range(_STEPS):
        loss, _ = session.gradients(feeds, labels)
        squares = sum(float(np.square(session.gradient(name)).sum()) for name in session.parameter_names())
        session.update(fall * loss / squares if squares else 1e-2)
    return session.evaluate(feeds, labels)[0] / first


def _export(made: Any, path: Path, feeds: dict[str, np.ndarray], trained: np.ndarray) -> float:
    """How far the exported model's logits are from the trained ones."""
    export_model(made.folder, path)
    found = _logits(path, str(made.content["model_logits"]), feeds)
    return float(np.abs(found - trained).max()) / max(1.0, float(np.abs(trained).max()))


def _logits(path: Path, name: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    from adabet_onnx.training.logits import logits_session

    graph = in_memory(ir.load(path))
    return np.asarray(run_session(logits_session(graph, name, str(path)), None, feeds, str(path))[0])


def table(found: list[Row]) -> str:
    """The table in Markdown: a line per model, rejections with reasons, and every row."""
    places = {name: place for place, name in enumerate(SELECTIONS)}
    found = sorted(found, key=lambda row: places[row.selection])
    found = [row for group in _groups(found, "model", "exporter").values() for row in group]
    legend = (__doc__ or "").split("one model:\n\n")[1].split("\n\nEach model")[0]
    parts = {
        "What trains": _summary(found) + "\n\n" + _by_model(found),
        "What is refused, and why": _refusals(found),
        "Every row": f"```text\n{legend}\n```\n\n" + _lines([HEADINGS, *(row.cells() for row in found)]),
    }
    head = (
        "# Support matrix\n\nWritten by `make matrix`: networks with random weights (trained ones from `shared`), "
        f"each with five selections and two backends; {_versions()}."
    )
    return "\n\n".join([head, *(f"## {title}\n\n{text}" for title, text in parts.items())])


def _versions() -> str:
    names = ("onnx", "onnxruntime-training-cpu", "onnxruntime", "torch")
    found = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def _lines(rows_of_cells: list[list[str]]) -> str:
    heading, *others = rows_of_cells
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heading, ["---"] * len(heading), *others))


def _groups(found: list[Row], *fields: str) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in found:
        groups.setdefault(tuple(getattr(row, field) for field in fields), []).append(row)
    return groups


def _summary(found: list[Row]) -> str:
    ways = _groups(found, "model", "exporter", "selection").values()
    trained = sum(any(row.trained for row in rows) for rows in ways)
    by_backend = " and ".join(
        f"{sum(row.trained for row in rows)} of {len(rows)} with {backend}"
        for (backend,), rows in _groups(found, "backend").items()
    )
    right = [row for row in found if row.trained and row.by == "torch" and row.gradient is not None]
    errors = [row.gradient or 0.0 for row in right if row.rounding is None]
    ratios = [(row.gradient or 0.0) / row.rounding for row in right if row.rounding]
    kinks = (
        f" In {len(ratios)} rows of large networks some activation was within rounding of a kink on every input; there "
        f"the error is {min(ratios):.1f} to {max(ratios):.1f} of torch's own in float32."
        if ratios
        else ""
    )
    return (
        f"{trained} of {len(ways)} selections of {len(_groups(found, 'model', 'exporter'))} models train with at least "
        f"one backend: {by_backend}. `check` had said so beforehand in {sum(row.agrees for row in found)} of the "
        f"{len(found)} rows. The largest gradient error against torch is {max(errors, default=0.0):.1e}.{kinks}"
    )


def _by_model(found: list[Row]) -> str:
    cells = [["model", "from", "layers", *(f"{backend}: selections that train" for backend in BACKENDS), "gradient"]]
    for (model, exporter), rows in _groups(found, "model", "exporter").items():
        counts = []
        for backend in BACKENDS:
            own = [row for row in rows if row.backend == backend]
            without = [row.selection for row in own if not row.trained]
            listed = f" (not {', '.join(without)})" if 0 < len(without) < len(own) else ""
            counts.append(f"{len(own) - len(without)} of {len(own)}{listed}")
        errors = [row.gradient for row in rows if row.by == "torch" and row.gradient is not None]
        gradient = f"{max(errors):.0e}" if errors else "-"
        cells.append([model, exporter, str(max(row.layers for row in rows)), *counts, gradient])
    return _lines(cells)


def _refusals(found: list[Row]) -> str:
    """The first reason for each model and backend."""
    reasons: dict[str, list[str]] = {}
    for (model, exporter, backend), rows_of_one in _groups(found, "model", "exporter", "backend").items():
        row = next((row for row in rows_of_one if not row.trained), None)
        if row is not None:
            reason = (row.error or f"gradient {row.gradient}, loss {row.loss}").replace("<ModelProto>", model)
            reasons.setdefault(reason, []).append(f"{model} ({exporter}), {backend}")
    return "\n".join(f"* {', '.join(where)}: {reason}" for reason, where in reasons.items())


def _in_processes(sources: list[tuple[str, str]], ray: str | None) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    """The rows of each source as they are finished: one process after another, or as tasks of Ray."""
    if ray is None:
        for source in sources:
            yield source, _in_process(*source)
        return
    with connect(ray) as cluster:
        waiting, pending = list(reversed(sources)), {}
        while waiting or pending:
            while waiting and len(pending) < cluster.at_once:
                source = waiting.pop()
                pending[cluster.submit(_in_process, *source)] = source
            reference = cluster.next_done(list(pending))
            source = pending.pop(reference)
            yield source, cluster.result(reference, f"{source[0]} ({source[1]})")


def _in_process(name: str, exporter: str) -> list[Row]:
    """The rows of one source, tried in a separate process."""
    command = [sys.executable, __file__, "--source", name, exporter]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [Row(**json.loads(line[4:])) for line in ran.stdout.splitlines() if line.startswith("ROW ")]
    if ran.returncode:
        error = (ran.stderr.strip().splitlines() or ["no error message"])[-1]
        rows.append(Row(name, exporter, "all", 0, "portable", True, f"exit code {ran.returncode}: {error}"))
    return rows


def main() -> None:
    """Try every source in a separate process; rows are stored in a file and not repeated."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", nargs=2, metavar=("MODEL", "EXPORTER"), help="Only this one, rows as JSON lines.")
    parser.add_argument("--models", nargs="*", help="Only these models.")
    parser.add_argument("--rows", type=Path, help="Where rows are kept, to go on after an interruption.")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="Try models as tasks of Ray; every node needs this checkout and its environment at the same paths.",
    )
    options = parser.parse_args()
    if options.source:
        for row in rows(*options.source):
            print("ROW " + json.dumps(asdict(row)), flush=True)
        return
    kept = options.rows.read_text().splitlines() if options.rows and options.rows.is_file() else []
    found = [Row(**json.loads(line)) for line in kept]
    done = {(row.model, row.exporter) for row in found}
    from models.origins import all_models

    wanted = [
        source for source in all_models() if source not in done and (not options.models or source[0] in options.models)
    ]
    for (name, exporter), made in _in_processes(wanted, options.ray):
        found += made
        if options.rows:
            with options.rows.open("a") as file:
                file.writelines(json.dumps(asdict(row)) + "\n" for row in made)
        print(f"{name} ({exporter}): {len(made)} rows", file=sys.stderr, flush=True)
    order = {source: place for place, source in enumerate(all_models())}
    found.sort(key=lambda row: order.get((row.model, row.exporter), len(order)))
    print(table(found))


if __name__ == "__main__":
    main()
