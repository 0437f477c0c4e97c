"""Shuts the process into its own folder and its object store, by the kernel: the guard behind `access`.

The invariant: once confined, no file outside the engine's folders and the interpreter's packages can be read, none
outside the engine's folders written, and no TCP connection made but to the object store's port. Nothing undoes it.

The engine has functions that ask for no grant, and SQL reaches them by more ways than any reading of a statement can
see: a function as an argument (``arrayMap(file, …)``, ``* apply(file)``), columns described in a string
(``format(TSV, 'a String alias file(…)', …)``), settings that hold an expression (``additional_result_filter``), the
rows behind VALUES, which are expressions and are handed on as data. Each of these read a file before.

Linux's Landlock does it without rights of an administrator: files since 5.13, TCP since 6.7, signals to others since
6.12 (docs.kernel.org/userspace-api/landlock.html, include/uapi/linux/landlock.h, whose names the constants have). Where
there is none, `confine` says so, and what `access` refuses is all there is. Own code instead of a package: three system
calls; the packages on PyPI are pre-releases.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import struct
import sys
import sysconfig
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import email_platform

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2
_NET_BIND_TCP, _NET_CONNECT_TCP = 1 << 0, 1 << 1
_SCOPE_SIGNAL = 1 << 1
_PR_SET_NO_NEW_PRIVS = 38
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
_READING = _EXECUTE | _READ_FILE | _READ_DIR
# How many of the rights, from the lowest bit, each version of the interface knows.
_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK_VERSION, _SIGNAL_VERSION = 4, 6

# What the C library, OpenSSL and the engine read of a machine; none of it is anybody's secret. Of /proc only files that
# hold figures: another process's environment holds its secrets.
_OF_THE_MACHINE = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo"),
    *("/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/usr/share/pki", "/usr/share/crypto-policies"),
    *("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/crypto-policies"),
    *("/etc/localtime", "/etc/timezone", "/etc/ld.so.cache", "/etc/services"),
    *(
        "/etc/hosts",
        "/etc/host.conf",
        "/etc/resolv.conf",
        "/etc/nsswitch.conf",
        "/etc/gai.conf",
        "/run/systemd/resolve",
    ),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/loadavg", "/proc/uptime", "/proc/sys"),
    *("/proc/self/status", "/proc/self/statm", "/proc/self/stat", "/proc/self/cgroup", "/proc/self/maps"),
    *("/proc/self/mounts", "/proc/self/mountinfo", "/sys/fs/cgroup", "/sys/devices/system"),
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
)
# A name server by TCP; where an AWS role's credentials come from, of a machine (80) and by token (443).
_PORTS_BEYOND_THIS_MACHINE = (53, 80, 443)


def confine(*, writable: Sequence[Path], s3_endpoints: Sequence[str]) -> str:
    """Confine this process from here on, and every thread and process that it starts; say what holds.

    Landlock binds the calling thread and those that it starts.

    Args:
        writable: folders, all of which are there, in which everything may be done.
        s3_endpoints: URLs whose ports may be connected to; port of a TCP connection, whichever the host.

    Raises:
        RuntimeError: other threads run already, which nothing would confine.
    """
    if sys.platform == "linux" and len([*Path("/proc/self/task").iterdir()]) > 1:
        raise RuntimeError("confine this process before anything that starts threads is imported")
    version = _call(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION) if sys.platform == "linux" else -1
    if version < 1:
        return "the kernel has no Landlock: only what a statement names is refused, which whoever wants to gets around"
    try:
        _restrict(version, writable, s3_endpoints)
    except OSError as refused:  # a container's own rules may forbid it, and nothing is confined by half
        return f"{refused}: only what a statement names is refused, which whoever wants to gets around"
    return "the kernel confines it to its folder" + (
        " and its object store's port" if version >= _NETWORK_VERSION else ""
    )


def _restrict(version: int, writable: Sequence[Path], s3_endpoints: Sequence[str]) -> None:
    known = (1 << _RIGHTS_BY_VERSION.get(version, max(_RIGHTS_BY_VERSION.values()))) - 1
    network = _NET_BIND_TCP | _NET_CONNECT_TCP if version >= _NETWORK_VERSION else 0
    attributes = struct.pack("=QQQ", known, network, _SCOPE_SIGNAL if version >= _SIGNAL_VERSION else 0)
    size = 8 if version < _NETWORK_VERSION else 16 if version < _SIGNAL_VERSION else 24
    ruleset = _checked(_call(_CREATE_RULESET, attributes, size, 0))
    try:
        _allow_beneath(ruleset, writable, known)
        _allow_beneath(ruleset, [*_packages(), *map(Path, _OF_THE_MACHINE)], known & _READING)
        _allow_beneath(ruleset, [Path("/dev/null")], known & (_READ_FILE | _WRITE_FILE))
        if network:
            for port in sorted(_ports(s3_endpoints)):
                rule = struct.pack("=QQ", _NET_CONNECT_TCP, port)
                _checked(_call(_ADD_RULE, ruleset, _RULE_NET_PORT, rule, 0))
        _checked(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_call(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _packages() -> Iterable[Path]:
    """Where Python finds what is imported later; of this project the package alone, not the folder around it."""
    yield Path(email_platform.__file__).resolve().parent
    yield Path(sys.executable).resolve().parent
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield Path(sysconfig.get_path(name))


def _ports(s3_endpoints: Sequence[str]) -> Collection[int]:
    found: set[int] = set()
    for url in s3_endpoints:
        parts = urlsplit(url)
        found.add(parts.port or {"http": 80, "https": 443}[parts.scheme])
        if not _is_loopback(parts.hostname or ""):
            found.update(_PORTS_BEYOND_THIS_MACHINE)
    return found


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _allow_beneath(ruleset: int, paths: Iterable[Path], rights: int) -> None:
    for path in paths:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:  # not every machine has each of them
            continue
        try:
            allowed = rights if path.is_dir() else rights & _OF_FILES
            rule = struct.pack("=Qi", allowed, opened)
            _checked(_call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))
        finally:
            os.close(opened)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """A system call; -1 where it fails, as the C library has it."""
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return int(library.syscall(ctypes.c_long(number), *given))


def _checked(answer: int) -> int:
    if answer < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return answer
