"""The embedded stack as a whole: one state folder, its lock, its parts, from the command line or a test.

Invariant: at most one supervisor works on a state folder, and a second start on it finds the first one's data.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from email_platform.adapters.preparation import prepare
from email_platform.errors import ConfigurationError, PartUnavailableError
from email_platform.local.stack.credentials import complete_values, read_embedded_file, write_embedded_file
from email_platform.local.stack.dagster_processes import (
    CODE_SERVER,
    DAGSTER_PARTS,
    dagster_environment,
    write_dagster_yaml,
    write_workspace,
)
from email_platform.local.stack.part import Part, held_free_ports
from email_platform.local.stack.postgres import Limits, initialise, postgres_part, prepare_server
from email_platform.local.stack.python_parts import (
    api_part,
    clickhouse_part,
    metrics_part,
    object_store_part,
    project_folder,
    provider_part,
    receiver_parts,
)
from email_platform.local.stack.state_folder import make_state_folder, private
from email_platform.local.stack.supervisor import Supervisor
from email_platform.local.stack.written_state import STATE_FILE, process_of, read_state, write_state
from email_platform.settings import (
    PART_NAMES,
    VARIABLE_PREFIX,
    PartName,
    Settings,
    external_parts,
    values_of,
    variable_of,
)

ENGINE_NAMES: tuple[PartName, ...] = ("postgres", "s3", "clickhouse", "provider")
"""The parts that do not depend on others; the receiver and Dagster start once the schemas exist."""
DAGSTER_PART_NAMES = tuple(DAGSTER_PARTS)
ALL_PART_NAMES: tuple[str, ...] = (*PART_NAMES, "api", *DAGSTER_PART_NAMES, "metrics")
_PORT_FIELDS = (
    "postgres_port",
    "s3_port",
    "clickhouse_port",
    "provider_port",
    "receiver_port",
    "api_port",
    "dagster_port",
    "code_server_port",
    "metrics_port",
)
_LOCK_FILE = "supervisor.lock"
_LOCK_TRIES = 6
# Twice the longest grace of a part, which is what its guard allows at most.
_EARLIER_PARTS_SECONDS = 75.0


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack.

    Attributes:
        settings: how to reach everything.
        external: parts that run elsewhere, according to the environment.
    """

    settings: Settings
    supervisor: Supervisor
    external: frozenset[PartName]


@contextmanager
def started_stack(
    state_folder: Path,
    *,
    environ: Mapping[str, str],
    parts: Collection[str] = ALL_PART_NAMES,
    ports: Literal["free", "configured"] = "configured",
    workspace: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    stop_requested: Callable[[Callable[[], None]], None] = lambda _: None,
) -> Iterator[Stack]:
    """Start the parts, prepare the bucket and schemas, and stop all on leaving.

    Args:
        state_folder: data, logs, secrets; made if missing, found again if not.
        environ: the settings, and the environment that the parts inherit.
        parts: which of `ALL_PART_NAMES`; those whose address is in `environ` are external and not started.
        ports: "free" chooses ports at each start, for tests.
        workspace: what Dagster loads instead of the platform; then no code server is started for the platform.
        say: shows the operator one line.
        stop_requested: is given the function that makes `Supervisor.watch`, or a start under way, end.

    Raises:
        ConfigurationError: a setting is wrong, or another supervisor works on this folder.
        PortTakenError: a port is taken; nothing was started on it.
        PartUnavailableError: a part did not start; all others were stopped again.
    """
    unknown = set(parts) - set(ALL_PART_NAMES)
    if unknown:
        raise ConfigurationError(f"no such part: {', '.join(sorted(unknown))}; parts are {', '.join(ALL_PART_NAMES)}")
    state_folder = state_folder.absolute()
    make_state_folder(state_folder)
    with _sole_supervisor(state_folder):
        _wait_for_earlier_processes(state_folder, say)
        if ports == "free":
            with held_free_ports(len(_PORT_FIELDS)) as free:
                chosen = dict(zip(_PORT_FIELDS, free, strict=True))
        else:
            chosen = {}
        known = read_embedded_file(state_folder)
        external = external_parts(environ)
        settings = _settings_for_start(state_folder, environ, known, chosen)
        supervisor = Supervisor(settings.start_timeout_seconds, say)
        supervisor.changed = lambda: write_state(state_folder, supervisor)
        stop_requested(supervisor.request_stop)
        engines = [name for name in ENGINE_NAMES if name in parts and name not in external]
        webhook_url = settings.provider_webhook_url
        if webhook_url is None and ("receiver" in parts or "receiver" in external):
            webhook_url = f"{settings.receiver_url}/events/simulator/default"
        try:
            supervisor.start(
                [_engine_part(name, settings, environ, "postgres_url" not in known, webhook_url) for name in engines]
            )
            supervisor.changed()
            prepare(settings, {*engines, *external})
            if "receiver" in parts and "receiver" not in external:
                supervisor.start(receiver_parts(settings, settings.state_folder / "logs", environ))
                supervisor.changed()
            if "api" in parts:
                supervisor.start([api_part(settings, settings.state_folder / "logs" / "api.log", environ)])
                supervisor.changed()
            _start_dagster(parts, settings, environ, workspace, supervisor)
            if "metrics" in parts:
                write_dagster_yaml(settings)
                log_file = settings.state_folder / "logs" / "metrics.log"
                supervisor.start([metrics_part(settings, log_file, dagster_environment(settings, environ))])
            supervisor.changed()
            yield Stack(settings, supervisor, external)
        finally:
            supervisor.stop()
            (state_folder / STATE_FILE).unlink(missing_ok=True)


@contextmanager
def running_stack(
    state_folder: Path,
    ports: Literal["free", "configured"] = "free",
    parts: Collection[str] = ENGINE_NAMES,
    environ: Mapping[str, str] | None = None,
    workspace: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Settings]:
    """A stack for a test or the demo: started, watched by a thread, stopped on leaving.

    Args:
        state_folder: see `started_stack`.
        ports: "free" by default, so that stacks can run side by side.
        parts: without the receiver and Dagster by default.
        environ: the process environment by default.
        workspace, say: see `started_stack`.
    """
    variables = os.environ if environ is None else environ
    with started_stack(
        state_folder, environ=variables, parts=parts, ports=ports, workspace=workspace, say=say
    ) as stack:
        watching = threading.Thread(target=stack.supervisor.watch, name="part-watch", daemon=True)
        watching.start()
        try:
            yield stack.settings
        finally:
            stack.supervisor.request_stop()
            watching.join()


def clean_environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without this platform's settings: for stacks that must touch nothing but themselves."""
    given = os.environ if variables is None else variables
    return {name: value for name, value in given.items() if not name.startswith(VARIABLE_PREFIX)}


def supervisor_id(state_folder: Path) -> int | None:
    """The process that works on this state folder; None where there is none."""
    try:
        with (state_folder / _LOCK_FILE).open("r", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read() or "0")
    except FileNotFoundError:
        pass
    return None


def stop_stack(state_folder: Path, timeout_seconds: float) -> bool:
    """Ask the supervisor of this folder to stop all and wait for its end; False where none runs.

    Raises:
        ConfigurationError: it did not end in time.
    """
    process_id = supervisor_id(state_folder)
    if not process_id:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGTERM)
    deadline = time.monotonic() + timeout_seconds
    while supervisor_id(state_folder) is not None:
        if time.monotonic() >= deadline:
            raise ConfigurationError(f"the supervisor (process {process_id}) did not stop in {timeout_seconds:g} s")
        time.sleep(0.1)
    return True


def _settings_for_start(
    state_folder: Path, environ: Mapping[str, str], known: Mapping[str, str], chosen_ports: Mapping[str, int]
) -> Settings:
    """Write ``embedded.env`` for this start's ports and load the settings that result."""
    from_environment = values_of(environ)
    ports = {name: Settings.model_fields[name].default for name in _PORT_FIELDS}
    # Checked before the file is written, with the addresses of any ports: a wrong setting changes nothing.
    draft = Settings.checked(
        {**complete_values(known, ports), **from_environment, **chosen_ports, "state_folder": state_folder}
    )
    ports = {name: getattr(draft, name) for name in _PORT_FIELDS}
    write_embedded_file(state_folder, complete_values(known, ports))
    return Settings.load(
        {**environ, **{variable_of(name): str(port) for name, port in ports.items()}}, state_folder=state_folder
    )


@contextmanager
def _sole_supervisor(state_folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel drops with the process."""
    with open(state_folder / _LOCK_FILE, "a+", encoding="utf-8", opener=private) as lock:
        for patience in range(_LOCK_TRIES, 0, -1):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # `supervisor_id` holds it for an instant while it looks; a supervisor holds it for good.
                if patience > 1:
                    time.sleep(0.05)
                    continue
                lock.seek(0)
                raise ConfigurationError(
                    f"another supervisor (process {lock.read() or 'unknown'}) works on {state_folder}: stop it with "
                    f"`email-platform down`, or set {variable_of('state_folder')} to another folder"
                ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
        lock.truncate(0)


def _wait_for_earlier_processes(state_folder: Path, say: Callable[[str], None]) -> None:
    """Let the guards of a killed supervisor finish: they are stopping their parts on the same data."""
    guards = [process_of(each["guard_id"], each["guard_started_at"]) for each in read_state(state_folder)]
    alive = [guard for guard in guards if guard is not None]
    if alive:
        say("waiting for the parts of an earlier supervisor to end")
        _, stubborn = psutil.wait_procs(alive, timeout=_EARLIER_PARTS_SECONDS)
        if stubborn:
            numbers = ", ".join(str(guard.pid) for guard in stubborn)
            raise PartUnavailableError(
                f"parts of an earlier supervisor did not end in {_EARLIER_PARTS_SECONDS:g} s and still work on "
                f"{state_folder}: end the processes {numbers}"
            )


def _engine_part(
    name: PartName, settings: Settings, environ: Mapping[str, str], new_password: bool, webhook_url: str | None
) -> Part:
    log_file = settings.state_folder / "logs" / f"{name}.log"
    if name == "s3":
        return object_store_part(settings, log_file, environ)
    if name == "clickhouse":
        return clickhouse_part(settings, log_file, environ)
    if name == "provider":
        return provider_part(settings, log_file, environ, webhook_url)
    data_folder = settings.state_folder / "postgres"
    server = prepare_server(data_folder)
    password = settings.postgres_password()
    initialise(server, data_folder, password, set_password=new_password)
    limits = Limits(
        settings.embedded_postgres_shared_megabytes,
        settings.embedded_postgres_work_megabytes,
        settings.embedded_postgres_connections,
    )
    return postgres_part(server, data_folder, log_file, settings.postgres_port, password, limits)


def _start_dagster(
    parts: Collection[str],
    settings: Settings,
    environ: Mapping[str, str],
    workspace: Path | None,
    supervisor: Supervisor,
) -> None:
    needless = {*(["worker"] if settings.steps != "celery" else []), *([CODE_SERVER] if workspace is not None else [])}
    wanted = [name for name in DAGSTER_PART_NAMES if name in parts and name not in needless]
    if not wanted:
        return
    write_dagster_yaml(settings)
    if not (project_folder() / "assets").is_dir():
        raise ConfigurationError(
            f"{project_folder()} has no assets: run from the project's checkout, or use --without-dagster"
        )
    loaded = workspace or write_workspace(settings)
    # One after the other: the first makes the storage's tables, the webserver and the daemon ask the code server, and
    # the daemon's health is asked of the webserver.
    for name in wanted:
        log_file = settings.state_folder / "logs" / f"{name}.log"
        supervisor.start([DAGSTER_PARTS[name](settings, log_file, environ, loaded)])
