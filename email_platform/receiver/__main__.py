"""Runs the receiver as a process: ``python -m email_platform.receiver``; several may run side by side.

Invariant: SIGTERM ends it after the requests at work are answered; any other end loses nothing that was
acknowledged.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import uvicorn
from starlette.applications import Starlette

from email_platform.adapters.assembly import open_oltp
from email_platform.adapters.health.serving import serving_health
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.adapters.postgres.erased import erasure_key
from email_platform.adapters.postgres.events import PostgresSuppressions
from email_platform.adapters.postgres.lead_relation import LeadRelation
from email_platform.adapters.postgres.manifests import PostgresManifestStore
from email_platform.adapters.sns_fetch import fetch_from_sns
from email_platform.content.unsubscribe import UnsubscribeSigner
from email_platform.errors import PortTakenError
from email_platform.events.accounts import SIMULATOR_SECRET_VARIABLE, WebhookAccounts
from email_platform.events.mailed import ManifestAddresses
from email_platform.receiver.alert_watch import watching
from email_platform.receiver.app import EventReceiver, RequestLimits, create_app
from email_platform.receiver.connections import (
    ClientBound,
    ConnectionCounts,
    ConnectionLimits,
    bounded_protocol,
    trusted_networks,
)
from email_platform.receiver.inbox_writer import EventInbox, InboxLimits
from email_platform.receiver.process import run_process
from email_platform.receiver.unsubscribe_page import UnsubscribePage
from email_platform.sending.orphan_watch import exit_with_parent
from email_platform.settings import Settings

_logger = logging.getLogger("email_platform.receiver")

MAXIMUM_CONNECTIONS = 1024


def utc_now() -> datetime:
    """The present time, UTC-aware."""
    return datetime.now(UTC)


@contextmanager
def open_app(
    settings: Settings,
    variables: Mapping[str, str],
    inbox_limits: InboxLimits,
    request_limits: RequestLimits,
    counts: ConnectionCounts | None = None,
) -> Iterator[Starlette]:
    """The application over the settings' bucket and database; nothing is connected before it is used.

    Args:
        settings: the validated settings.
        variables: where the accounts' webhook settings are read from (see `email_platform.events.accounts`).
        inbox_limits: how bodies are batched.
        request_limits: what a request may take.
        counts: shown at `/health`.
    """
    signer = UnsubscribeSigner.from_settings(settings)
    secret = settings.provider_webhook_secret
    simulator = {SIMULATOR_SECRET_VARIABLE: secret.get_secret_value()} if secret else {}
    accounts = WebhookAccounts({**simulator, **variables}, fetch_from_sns, utc_now)
    store = S3ObjectStore.from_settings(settings)
    inbox = EventInbox(store, utc_now, inbox_limits)
    with open_oltp(settings) as engine:
        mailed = ManifestAddresses(store, PostgresManifestStore(engine).find)
        suppressions = PostgresSuppressions(engine, erasure_key(settings), LeadRelation.from_settings(settings))
        page = UnsubscribePage(signer.verify, suppressions, mailed, inbox, utc_now)
        receiver = EventReceiver(accounts, inbox, utc_now, request_limits)
        receiver.connections = counts or receiver.connections
        # Without S3 no event can be taken; without PostgreSQL events still are, and opt-outs by link are not.
        with serving_health(settings, {"S3"}, warehouse=False) as parts:
            yield create_app(receiver, page, inbox, parts)


class Server(uvicorn.Server):
    """A server that exits with 0 when it is asked to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM and SIGINT."""
        # uvicorn's own would raise the signal again after the clean stop, and the exit code would be -15.
        originals = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in originals.items():
                signal.signal(number, handler)

    def _stop(self, *_: object) -> None:
        self.should_exit = True


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m email_platform.receiver",
        description="Takes providers' events and recipients' unsubscriptions; settings come from the environment.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    inbox, request, connections = InboxLimits(), RequestLimits(), ConnectionLimits()
    add("--host", default="127.0.0.1", help="put a TLS proxy in front for any other")
    add("--port", type=int, required=True)
    add("--share-port", action="store_true", help="let other receivers of this user listen on the same port")
    add("--batch-bytes", type=int, default=inbox.batch_bytes, help="store a batch of this size at once")
    add("--batch-milliseconds", type=float, default=inbox.batch_milliseconds, help="store a smaller one after this")
    add("--store-within-seconds", type=float, default=inbox.store_within_seconds)
    add("--maximum-body-bytes", type=int, default=request.body_bytes)
    add("--read-within-seconds", type=float, default=request.read_within_seconds)
    add("--head-within-seconds", type=float, default=connections.head_within_seconds)
    add(
        "--connections-per-peer", type=int, default=connections.connections_per_peer, help="or requests, behind a proxy"
    )
    add("--exit-with-parent", action="store_true", help="stop when the process that started this one ends")
    return parser.parse_args(arguments)


def listen(host: str, port: int, *, share_port: bool) -> socket.socket:
    """A bound socket.

    Args:
        host: an IPv4 or IPv6 address, or a name.
        port: 0 for any.
        share_port: several processes listen, and the kernel deals out the connections (SO_REUSEPORT).

    Raises:
        PortTakenError: somebody else listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024, reuse_port=share_port)
    except OSError as failure:
        raise PortTakenError(
            f"cannot listen on {host}:{port} ({failure.strerror}): choose another port with --port, or end the "
            "process that uses it"
        ) from failure


def serve(options: argparse.Namespace, original_parent: int) -> None:
    """Serve until asked to stop.

    Raises:
        ConfigurationError: a setting is missing or wrong.
        PortTakenError: another process listens there.
    """
    inbox_limits = InboxLimits(
        batch_bytes=options.batch_bytes,
        batch_milliseconds=options.batch_milliseconds,
        store_within_seconds=options.store_within_seconds,
    )
    request_limits = RequestLimits(
        body_bytes=options.maximum_body_bytes, read_within_seconds=options.read_within_seconds
    )
    settings = Settings.load()
    limits = ConnectionLimits(
        head_within_seconds=options.head_within_seconds,
        connections_per_peer=options.connections_per_peer,
        trusted_proxies=trusted_networks(settings.receiver_trusted_proxies),
    )
    counts = ConnectionCounts()
    with open_app(settings, os.environ, inbox_limits, request_limits, counts) as app:
        config = uvicorn.Config(
            ClientBound(app, limits),
            http=bounded_protocol(limits, counts),
            ws="none",
            host=options.host,
            port=options.port,
            lifespan="on",
            access_log=False,  # the path of the unsubscribe page is a credential
            proxy_headers=False,
            server_header=False,
            log_config=None,
            log_level="warning",
            backlog=1024,
            limit_concurrency=MAXIMUM_CONNECTIONS,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=20,
        )
        with listen(options.host, options.port, share_port=options.share_port) as listener:
            if options.exit_with_parent:
                exit_with_parent(original_parent, lambda: os.kill(os.getpid(), signal.SIGTERM))
            _logger.info("receiving events on http://%s:%d", *listener.getsockname()[:2])
            with watching(settings):
                Server(config).run(sockets=[listener])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until asked to stop; return the exit code: 0 after a clean stop, 2 for a wrong setting."""
    return run_process(parse_arguments, serve, arguments)


if __name__ == "__main__":
    sys.exit(main())
