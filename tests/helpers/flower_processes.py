"""Flower's processes for a test: a superlink, supernodes, and runs whose outcome is checked."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
from conftest import ROOT

PATIENCE = 150  # seconds, after which a run has failed


def surroundings(folder: Path) -> dict[str, str]:
    """An environment in which Flower and Ray write nothing elsewhere, use no network and install nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    return kept | {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_HOME": str(folder / "flower"),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": "/tmp" if len(str(folder)) > 40 else str(folder),  # the paths of its sockets have a limit
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


class Processes:
    """Flower's processes of one test, each in its own process group, which is ended with the test.

    Args:
        python: with Flower.
        folder: for what they write.
        tls: paths of certificates, or None.
    """

    def __init__(self, python: Path, folder: Path, tls: dict[str, str] | None = None) -> None:
        self._bin, self._folder, self._tls = python.parent, folder, tls
        self._around = surroundings(folder)
        self._around["PATH"] = f"{python.parent}{os.pathsep}{self._around.get('PATH', '')}"  # they start each other
        self._stack = ExitStack()
        self._port, self._control = free_port(), free_port()
        home = folder / "flower"
        home.mkdir(exist_ok=True)
        how = "insecure = true" if tls is None else f'root-certificates = "{tls["ca.pem"]}"'
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{self._port}"\n{how}\n'
        )

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, name: str, program: str, *words: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self._folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [str(self._bin / program), *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._around,
            cwd=self._folder,
            start_new_session=True,
        )
        self._stack.callback(ended, process)
        return process

    def documented(self, program: str, **places: object) -> list[str]:
        """The arguments of a program in docs/fleet.md, with placeholders replaced."""
        block = re.search(r"```sh\n(.+?)```", (ROOT / "docs" / "fleet.md").read_text(), re.DOTALL)
        assert block is not None
        (line,) = re.findall(rf"^{program} (.+)$", block[1].replace("\\\n", " "), re.MULTILINE)
        for word, place in {**(self._tls or {}), "HOST:9092": f"127.0.0.1:{self._port}"}.items():
            line = re.sub(rf"\b{re.escape(word)}", place, line)
        found = {"0.0.0.0": "127.0.0.1", "9092": self._port, "9094": free_port(), **places}
        for word, place in found.items():
            line = re.sub(rf"(?<![\w./]){re.escape(word)}\b", str(place), line)
        return shlex.split(line)

    def superlink(self, *words: str) -> subprocess.Popen[bytes]:
        how = ["--insecure", "--host", "127.0.0.1", "--port", str(self._port)]
        made = self.start(
            "superlink",
            "flower-superlink",
            *(how if self._tls is None else self.documented("flower-superlink")),
            *words,
        )
        end = time.monotonic() + 60
        while time.monotonic() < end and made.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return made
            time.sleep(0.1)
        raise AssertionError(self.logs())

    def supernode(self, number: int, data: Path, kept: Path) -> subprocess.Popen[bytes]:
        """Start a node as documented."""
        words = self.documented("flower-supernode", **{"/data/mine.npz": data, "/var/lib/adabet": kept})
        return self.start(f"node{number}", "flower-supernode", *words)

    def insecure_node(self, number: int, data: Path, kept: Path) -> subprocess.Popen[bytes]:
        """Start a node of a superlink without certificates."""
        where = ["--superlink", f"127.0.0.1:{self._port}", "--host", "127.0.0.1", "--port", str(free_port())]
        config = f'data="{data}" folder="{kept}"'
        return self.start(f"node{number}", "flower-supernode", "--insecure", *where, "--node-config", config)

    def flwr(self, *words: str) -> str:
        command = [str(self._bin / "flwr"), *words]
        done = subprocess.run(
            command, capture_output=True, text=True, env=self._around, timeout=PATIENCE, check=False, cwd=self._folder
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def submit(self, app: str | Path, *words: str) -> str:
        """Start a run; returns its number."""
        return str(json.loads(self.flwr("run", str(app), "here", "--format", "json", *words))["run-id"])

    def run(self, app: str | Path, here: str = "here", *words: str) -> None:
        """Run an app, and check that its run has not failed: `flwr run` exits with 0 even then."""
        assert here == "here"
        number, results = self.submit(app, *words), Path(f"{app}-results")
        end, status = time.monotonic() + PATIENCE, ""
        while time.monotonic() < end and not (results / "delta.safetensors").is_file():
            time.sleep(0.2)  # each query starts a Python process
            if "run_serverapp failed" in self.logs():
                break
        while time.monotonic() < end + 30 and not status.startswith("finished"):
            runs = json.loads(self.flwr("ls", "here", "--run-id", number, "--format", "json"))["runs"]
            status = str(runs[0]["status"])
        assert status == "finished:completed", f"{status}\n{self.logs()}"

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-4000:]}" for path in sorted(self._folder.glob("*.log")))


def ended(process: subprocess.Popen[bytes], *, killed: bool = False) -> None:
    """End a process and its children by SIGTERM or, if `killed`, by SIGKILL."""
    family = []
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)  # some are in separate groups
        if killed:
            process.kill()
        else:
            process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=10)
