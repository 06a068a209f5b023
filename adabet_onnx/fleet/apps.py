"""Generation of a Flower app: small files with which `flwr run` trains a fleet in a simulation or a deployment."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from ..errors import UsageError
from ..files import replacing_folder
from ..model.open import open_model
from ..options import typed
from ..scoring.options import Scoring
from ..selection.rankings import DEFAULT_RHO
from ..training.manifest import FILE as MANIFEST
from ..training.settings import Settings
from ..version import __version__
from .client_artifacts import ClientArtifacts
from .options import Fleet, fixed_rate

_MARKER = "pyproject.toml"
_CLIENT = '''"""The app that runs on a node. Flower's mods can be passed to client_app(mods=[...])."""

from adabet_onnx.fleet.flower_client import client_app

app = client_app()
'''
_SERVER = '''"""The app that runs on the server, controlled by the run's configuration in pyproject.toml."""

from adabet_onnx.fleet.flower_server import server_app

app = server_app()
'''
_TIMEOUT = 600  # seconds within which clients must answer


@typed
def write_fleet_app(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    fleet: Fleet | None = None,
    settings: Settings | None = None,
) -> list[Path]:
    """Write a Flower app that trains a fleet of real devices: clients vote, train and answer where their data is.

    `flwr run` starts it in a simulation or a deployment. The server keeps its results and a checkpoint of every round
    in a folder beside that of the app, whose name ends in ``-results``, and the next run continues from there.

    Args:
        source: an artifact folder of the portable backend, or a model file whose layers clients vote on first.
        folder: folder of the app; created, or replaced if it holds an earlier one.
        fleet: rounds, aggregation and related options, without those of simulations and memory; None: the defaults.
        settings: batch size, learning rate and its schedule, seed and validation share; the others are not used. None:
            the defaults.

    Returns:
        The files, relative to the folder.

    Raises:
        RecordError: the artifacts are damaged.
        ModelError: the model cannot be opened.
        UsageError: the artifacts are of the other backend, or ``personal`` does not fit them.
        OutputError: the folder cannot be written.

    Example:
        >>> from adabet_onnx import Fleet, make_artifacts, select, write_fleet_app
        >>> manifest = make_artifacts("model.onnx", select("model.onnx", strategy="head"), "artifacts")
        >>> [path.as_posix() for path in write_fleet_app("artifacts", "app", fleet=Fleet(rounds=5))]
        ['pyproject.toml', 'fleet_app/__init__.py', 'fleet_app/client_app.py', 'fleet_app/server_app.py']
    """
    fleet, settings, source = fleet or Fleet(), settings or Settings(), Path(source)
    if source.is_dir():
        ClientArtifacts(source, fleet.personal)
    else:
        open_model(source)
        if fleet.personal:
            raise UsageError("`personal` layers need artifacts: the layers of a model have not been selected yet.")
    target = Path(folder)
    files = {
        _MARKER: tomli_w.dumps(_project(source, target, fleet, settings)),
        "fleet_app/__init__.py": '"""A fleet trained by adabet-onnx."""\n',
        "fleet_app/client_app.py": _CLIENT,
        "fleet_app/server_app.py": _SERVER,
    }
    with replacing_folder(target, _MARKER) as part:
        (part / "fleet_app").mkdir()
        for name, text in files.items():
            (part / name).write_text(text, encoding="utf-8")
    return list(map(Path, files))


def _project(source: Path, target: Path, fleet: Fleet, settings: Settings) -> dict[str, Any]:
    """Return the content of pyproject.toml; 0 and "" replace null, which Flower's configurations cannot hold."""
    artifacts = (source / MANIFEST).is_file()
    skipped = ("clients", "partition", "client_memory", "personal")
    config: dict[str, Any] = {
        "artifacts": str(source.absolute()) if artifacts else "",
        "model": "" if artifacts else str(source.absolute()),
        "folder": str(target.absolute().with_name(f"{target.name}-results")),
        "nodes": fleet.minimum,
        "timeout": _TIMEOUT,
        "evaluate": "",
        "data": "",
        "partition": "iid",
        "personal": ",".join(fleet.personal),
        "batch-size": settings.size,
        "learning-rate": fixed_rate(settings) or 0.0,
        "validation": settings.validation,
        "schedule": settings.schedule,
        "seed": settings.seed,
    }
    for name, value in asdict(fleet).items():
        if name not in skipped:
            config[name.replace("_", "-")] = _plain(name, value)
    if not artifacts:
        config |= {"rho": DEFAULT_RHO, "samples": Scoring().samples, "subset-size": Scoring().subset_size}
    components = {"serverapp": "fleet_app.server_app:app", "clientapp": "fleet_app.client_app:app"}
    return {
        "project": {
            "name": "fleet-app",
            "version": "1.0.0",
            "description": "A fleet trained by adabet-onnx.",
            "license": "Apache-2.0",
            "dependencies": [f"adabet-onnx[fleet]>={__version__}"],
        },
        "build-system": {"requires": ["hatchling"], "build-backend": "hatchling.build"},
        "tool": {"flwr": {"app": {"publisher": "adabet-onnx", "components": components, "config": config}}},
    }


def _plain(name: str, value: Any) -> Any:
    """Return a value, with 0 in place of None."""
    floats = ("proximal", "server_rate", "privacy_clip", "privacy_noise", "max_norm")
    return value if value is not None else 0.0 if name in floats else 0
