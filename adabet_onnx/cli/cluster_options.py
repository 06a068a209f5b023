"""The option that runs tasks on Ray, which `compare` and `stability` share."""

from __future__ import annotations

from .layout import Declared

ray = Declared(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    group="Runtime",
    help="Run as tasks of Ray: on this machine, or on the cluster at auto or HOST:PORT. Trust the cluster.",
    show_default="no",
)
