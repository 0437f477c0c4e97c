"""Ports that the embedded stack chooses."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from email_platform.errors import PortTakenError
from email_platform.local.stack import part
from email_platform.local.stack.part import LOOPBACK, held_free_ports


def test_no_connection_of_the_machine_can_take_a_chosen_port_before_its_server_listens() -> None:
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with held_free_ports(50) as ports, held_free_ports(50) as others:
        assert len({*ports, *others}) == 100, "none is given out twice"
        assert max(*ports, *others) < first_ephemeral
    with socket.socket() as server:
        server.bind((LOOPBACK, ports[0]))


def test_ports_that_are_taken_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with held_free_ports(3) as (taken, free, _):
        monkeypatch.setattr(part, "sample", lambda _ports, k: [taken, free])
        with pytest.raises(PortTakenError, match="fewer than 1 of"), held_free_ports(1):
            pass
