"""A statistics server on a UDP port, that writes down what Airflow's statsd client sends it."""

from __future__ import annotations

import contextlib
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from airflow_checkpoint_etl.demo.servers import HOST

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "airflow."
LINE = re.compile(r"(?P<name>[^,:]+)(?P<tags>(?:,[^,=]+=[^,=]+)*):(?P<value>[^|]+)\|(?P<kind>\w+)")
"""A line of statsd, with tags the way InfluxDB wants them."""


@dataclass(frozen=True)
class Sent:
    """One value that was sent: ``kind`` is ``c``, ``g`` or ``ms``."""

    name: str
    value: float
    kind: str
    tags: Mapping[str, str]


class StatsdListener:
    """Hears, once entered, every line that is sent to its port."""

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((HOST, 0))
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def environment(self) -> dict[str, str]:
        """Settings that make an Airflow send its statistics here."""
        settings = {
            "STATSD_ON": "True",
            "STATSD_HOST": HOST,
            "STATSD_PORT": str(self._socket.getsockname()[1]),
            "STATSD_INFLUXDB_ENABLED": "True",
        }
        return {f"AIRFLOW__METRICS__{name}": value for name, value in settings.items()}

    def heard(self) -> list[Sent]:
        """What came since the last call, of this package's metrics, in order."""
        self._socket.setblocking(False)
        lines: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                lines += self._socket.recv(65536).decode().splitlines()
        found = [LINE.fullmatch(line.removeprefix(PREFIX)) for line in lines]
        return [
            Sent(
                name=line["name"],
                value=float(line["value"]),
                kind=line["kind"],
                tags=dict(pair.split("=", 1) for pair in line["tags"].split(",")[1:]),
            )
            for line in found
            if line is not None and line["name"].startswith("checkpoint_etl.")
        ]
