"""Runs the simulator as a process: ``python -m email_platform.local.provider_simulator``.

The invariant: one process per data folder, and SIGTERM ends it cleanly with exit code 0; the log is whole
after any other end too.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from email_platform.errors import ConfigurationError, PortTakenError
from email_platform.local.provider_simulator.app import SimulatorHolder, create_app
from email_platform.local.provider_simulator.connections import TRANSPORT_EXTENSION
from email_platform.local.provider_simulator.faults import Fault, FaultPlan
from email_platform.local.provider_simulator.idempotency import DEFAULT_LIFETIME_SECONDS
from email_platform.local.provider_simulator.outcomes import OutcomeRates
from email_platform.local.provider_simulator.rate_limit import RateLimit
from email_platform.local.provider_simulator.settings import (
    API_KEY_VARIABLE,
    WEBHOOK_SECRET_VARIABLE,
    SimulatorSettings,
    read_secret,
    require_loopback,
)
from email_platform.local.provider_simulator.webhook_plan import WebhookPlan
from email_platform.local.provider_simulator.webhook_signature import signing_key
from email_platform.sending.orphan_watch import exit_with_parent

_logger = logging.getLogger("email_platform.provider_simulator")

# The default of 5 ms is what the log's writer waits for Python's lock beside a busy event loop, several times
# per group commit.
_SWITCH_INTERVAL_SECONDS = 0.0005


class _ResettableProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with the connection in the scope so that a fault can reset it."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT_EXTENSION: {"transport": self.transport}}


class _SimulatorServer(uvicorn.Server):
    """A server that lets waiting calls go when it is asked to stop, and that exits with 0."""

    def __init__(self, config: uvicorn.Config, holder: SimulatorHolder) -> None:
        super().__init__(config)
        self._holder = holder

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own would raise the signal again after the clean stop, and the exit code would be -15.
        originals = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in originals.items():
                signal.signal(number, handler)

    def _stop(self, *_: object) -> None:
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        stop = await super().on_tick(counter)
        if stop:
            self._holder.stop()
        return stop


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m email_platform.local.provider_simulator",
        description="An email provider for tests and demos: bulk API, faults, signed webhooks, durable log.",
        epilog=f"Secrets come from {API_KEY_VARIABLE} and {WEBHOOK_SECRET_VARIABLE}.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data-folder", type=Path, required=True, help="where the log is kept; created if missing")
    add("--host", default="127.0.0.1", help="a loopback address")
    add("--port", type=int, required=True, help="0: any free port, which the log names")
    add("--seed", type=int, default=0, help="seed of outcomes, faults and webhook disorder")
    add("--account", default="default")
    add("--idempotency", choices=("on", "off"), default="on", help="whether Idempotency-Key is honoured")
    add("--idempotency-lifetime-seconds", type=float, default=DEFAULT_LIFETIME_SECONDS)
    add("--maximum-recipients", type=int, default=50, help="most recipients of one call")
    add("--maximum-body-bytes", type=int, default=10 * 1024 * 1024)
    add("--blocked-domain", action="append", default=[], help="refuse recipients at this domain; repeatable")
    rates = OutcomeRates()
    for name in ("bounce", "soft_bounce", "complaint", "open", "click", "unsubscribe"):
        option = f"--{name.replace('_', '-')}-rate"
        add(option, type=float, default=getattr(rates, name), help="share of ordinary addresses, 0 to 1")
    add("--calls-per-second", type=float, default=None)
    add("--recipients-per-second", type=float, default=None)
    add("--burst-seconds", type=float, default=1.0)
    plan = FaultPlan()
    add(
        "--fault",
        action="append",
        default=[],
        metavar="KIND=PROBABILITY",
        help=f"repeatable: {', '.join(Fault)}",
    )
    for name in (
        "slow_seconds",
        "slow_response_seconds",
        "throttle_retry_after_seconds",
        "drop_response_limit_seconds",
    ):
        add(f"--{name.replace('_', '-')}", type=float, default=getattr(plan, name))
    webhooks = WebhookPlan()
    add("--webhook-url", default=None, help="receiver of events; without it they wait in the outbox")
    add("--webhook-batch-size", type=int, default=webhooks.batch_size)
    for name in (
        "delay_seconds",
        "duplicate_probability",
        "reorder_probability",
        "reorder_hold_seconds",
        "retry_base_seconds",
        "retry_limit_seconds",
        "timeout_seconds",
    ):
        add(f"--webhook-{name.replace('_', '-')}", type=float, default=getattr(webhooks, name))
    add("--exit-with-parent", action="store_true", help="stop when the process that started this one ends")
    return parser.parse_args(arguments)


def settings_from(options: argparse.Namespace) -> SimulatorSettings:
    """Return the settings of a command line and the environment.

    Raises:
        ConfigurationError: a value is out of range, or a secret is missing.
    """
    secret = read_secret(os.environ, WEBHOOK_SECRET_VARIABLE)
    signing_key(secret)
    return SimulatorSettings(
        data_folder=options.data_folder,
        host=options.host,
        port=options.port,
        api_key=read_secret(os.environ, API_KEY_VARIABLE),
        webhook_secret=secret,
        account=options.account,
        seed=options.seed,
        idempotency=options.idempotency == "on",
        idempotency_lifetime_seconds=options.idempotency_lifetime_seconds,
        maximum_recipients=options.maximum_recipients,
        maximum_body_bytes=options.maximum_body_bytes,
        blocked_domains=frozenset(domain.lower() for domain in options.blocked_domain),
        rates=OutcomeRates(
            bounce=options.bounce_rate,
            soft_bounce=options.soft_bounce_rate,
            complaint=options.complaint_rate,
            open=options.open_rate,
            click=options.click_rate,
            unsubscribe=options.unsubscribe_rate,
        ),
        rate_limit=RateLimit(options.calls_per_second, options.recipients_per_second, options.burst_seconds),
        faults=FaultPlan(
            seed=options.seed,
            slow_seconds=options.slow_seconds,
            slow_response_seconds=options.slow_response_seconds,
            throttle_retry_after_seconds=options.throttle_retry_after_seconds,
            drop_response_limit_seconds=options.drop_response_limit_seconds,
        ).changed_by({"probabilities": _parse_faults(options.fault)}),
        webhooks=WebhookPlan(
            url=options.webhook_url,
            batch_size=options.webhook_batch_size,
            delay_seconds=options.webhook_delay_seconds,
            duplicate_probability=options.webhook_duplicate_probability,
            reorder_probability=options.webhook_reorder_probability,
            reorder_hold_seconds=options.webhook_reorder_hold_seconds,
            retry_base_seconds=options.webhook_retry_base_seconds,
            retry_limit_seconds=options.webhook_retry_limit_seconds,
            timeout_seconds=options.webhook_timeout_seconds,
        ),
    )


def _parse_faults(texts: list[str]) -> dict[str, float]:
    probabilities: dict[str, float] = {}
    for text in texts:
        kind, _, probability = text.partition("=")
        try:
            probabilities[kind] = float(probability)
        except ValueError as wrong:
            raise ConfigurationError(f"--fault {text}: must be KIND=PROBABILITY") from wrong
    return probabilities


@contextmanager
def _sole_owner(data_folder: Path) -> Iterator[None]:
    """Hold the data folder's lock, which the kernel drops with the process."""
    data_folder.mkdir(parents=True, exist_ok=True)
    with (data_folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            raise ConfigurationError(f"--data-folder {data_folder}: another simulator runs on this folder") from taken
        yield


def _listen(host: str, port: int) -> socket.socket:
    require_loopback(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as failure:
        listener.close()
        raise PortTakenError(f"--port {port}: cannot listen on {host}:{port}: {failure.strerror}") from failure
    return listener


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until asked to stop; return the exit code: 0 after a clean stop, 2 for a wrong setting."""
    original_parent = os.getppid()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # httpx logs every request at INFO: one line per webhook.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    options = parse_arguments(arguments)
    try:
        settings = settings_from(options)
        with _sole_owner(settings.data_folder), _listen(settings.host, settings.port) as listener:
            _serve(settings, listener, original_parent if options.exit_with_parent else None)
    except ConfigurationError as refusal:
        _logger.error("%s", refusal)
        return 2
    return 0


def _serve(settings: SimulatorSettings, listener: socket.socket, original_parent: int | None) -> None:
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    holder = SimulatorHolder()
    server = _SimulatorServer(
        uvicorn.Config(
            create_app(settings, holder),
            http=_ResettableProtocol,
            lifespan="on",
            access_log=False,
            proxy_headers=False,
            log_config=None,
            log_level="warning",
            backlog=1024,
            timeout_graceful_shutdown=5,
            timeout_keep_alive=75,
        ),
        holder,
    )
    if original_parent is not None:
        exit_with_parent(original_parent, lambda: os.kill(os.getpid(), signal.SIGTERM))
    host, port = listener.getsockname()[:2]
    _logger.info("provider simulator of account %s on http://%s:%d", settings.account, host, port)
    server.run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
