"""A fleet: the boards a bundle is measured on (hosts.toml), and what became of each (`edgeskin-fleet/1`)."""

import shlex
from typing import Literal

from pydantic import Field, field_validator, model_validator

from edgeskin.spec.base import Spec
from edgeskin.spec.bench import Route
from edgeskin.spec.manifest import Mode
from edgeskin.spec.suite import Scenario

Fault = Literal[
    "unreachable", "host key", "login", "no edgeskin", "no space", "no permission", "time limit", "bench failed",
    "wrong result", "interrupted", "failed here",
]  # fmt: skip


class Host(Spec):
    """One board. It is logged into by a key or an agent; a password has no place here."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")  # its result is <name>.json
    address: str = Field(pattern=r"^[^\s/@]+$")  # host name or IP address
    port: int = Field(default=22, ge=1, le=65535)
    user: str = ""  # "": the name of who runs this
    key_file: str = ""  # "": the agent, then the keys of ~/.ssh
    command: str = Field(default="edgeskin", min_length=1)  # e.g. "~/venv/bin/python -m edgeskin.cli"
    folder: str = Field(default=".", min_length=1)  # on the board; a folder in it is made and removed
    threads: int = Field(default=0, ge=0)  # 0: what the command line or the suite says
    timeout_s: float = Field(default=1800.0, gt=0)  # for everything: upload, run, fetch
    connect_s: float = Field(default=15.0, gt=0)
    suite: str = ""  # "": the one of the command line
    lean: bool = False  # leave the FP32 reference at home

    @field_validator("command")
    @classmethod
    def _words(cls, command: str) -> str:
        if not shlex.split(command):  # which says itself what is wrong with quotes
            raise ValueError("no command")
        return command


class Hosts(Spec):
    """All boards of a run. Relative paths are relative to the file."""

    known_hosts: str = "~/.ssh/known_hosts"  # a board whose key is not in it is not talked to
    parallel: int = Field(default=8, ge=1, le=64)
    host: tuple[Host, ...] = Field(min_length=1)

    @field_validator("host")
    @classmethod
    def _named_once(cls, hosts: tuple[Host, ...]) -> tuple[Host, ...]:
        names = [host.name.lower() for host in hosts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two hosts share the name {twice[0]!r}")
        return hosts

    @model_validator(mode="after")
    def _no_reserved_name(self) -> "Hosts":
        if any(host.name.lower() == "fleet" for host in self.host):
            raise ValueError("a host cannot be named 'fleet': fleet.json is the summary")
        return self


class FleetLane(Spec):
    """The figures of one lane on one board."""

    scenario: Scenario
    mode: Mode
    route: Route
    p50_ms: float
    p99_ms: float
    ratio: float | None  # bundle over FP32 reference


class FleetRow(Spec):
    """What became of one board: a result, or a fault with its reason."""

    name: str
    status: Literal["measured", "done before", "failed"]
    fault: Fault | None = None
    reason: str = ""
    seconds: float = 0.0
    file: str | None = None  # name of the result's file beside the summary
    edgeskin: str | None = None  # version on the board
    machine: str | None = None
    threads: int | None = None
    measured: str | None = None
    lanes: tuple[FleetLane, ...] = ()
    cold_start_ms: float | None = None
    peak_rss_bytes: int | None = None
    valid: bool | None = None
    invalid_because: tuple[str, ...] = ()


class FleetResult(Spec):
    """One bundle on many boards; each board's whole result lies in its own file."""

    format: Literal["edgeskin-fleet/1"] = "edgeskin-fleet/1"
    bundle: str
    bundle_sha256: str
    rows: tuple[FleetRow, ...]
    partial: bool  # interrupted: run it again, what is done stays done
    seconds: float
