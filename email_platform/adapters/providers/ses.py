"""Amazon SES v2 ``SendBulkEmail`` through boto3.

Invariant: one `send` is one HTTP request: boto3's retries are off (``total_max_attempts`` 1), since each of its
attempts would be a call that the ledger does not know of. Each request asks for a connection of its own, for the
reasons in `http_transport`.

How a call is written: `ses_request`. SES honours no idempotency key. It counts its rate per recipient and may accept a
part of a call: the others come back as ``deferred`` with the code ``ACCOUNT_THROTTLED``.

Whose fault (API reference, "SendBulkEmail", errors and "BulkEmailEntryResult"; "Common errors"):

| answer | whose | why |
| --- | --- | --- |
| 200 | per entry | ``Status``, ``Error``, ``MessageId`` in request order |
| MessageRejected "Email address is not verified" | sender or account | an identity lacks: the sender's, or in the |
| | | sandbox a recipient's (AWS knowledge centre, "554 or 400 Message rejected") |
| MessageRejected otherwise, BadRequestException, other 4xx | nobody knows | "invalid content", "invalid input" |
| 413 | size | |
| TooManyRequestsException, Throttling… | the moment | rate; with "daily" in its message the account |
| AccountSuspended, SendingPaused, LimitExceeded, MailFromDomainNotVerified, NotFound | sender or account | |
| 401, 403, credentials missing or wrong, ExpiredToken | account | |
| 500, 502, 503, 504 | unknown | "temporary failure of the server": no promise that nothing was accepted |
| no connection, connect timeout, DNS, certificate | the moment | botocore raises these before it writes |
| connection closed, read timeout, other client errors | unknown | after the request began |

| entry's status | whose | why |
| --- | --- | --- |
| MESSAGE_REJECTED | account if "not verified", else unclear | "contained a virus": in a value, or for all |
| INVALID_PARAMETER | unclear | "one or more parameters were invalid": the address, or the sender's |
| FAILED, and what is not listed | nobody knows | "wasn't able to process your request" |
| ACCOUNT_THROTTLED, TRANSIENT_FAILURE | the moment | |
| MAIL_FROM_DOMAIN_NOT_VERIFIED, CONFIGURATION_SET_…, TEMPLATE_NOT_FOUND | sender or account | |
| INVALID_SENDING_POOL_NAME, ACCOUNT_… (all others) | account | suspended, paused, daily quota |
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import boto3
import orjson
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProxyConnectionError,
    SSLError,
)

from email_platform.adapters.providers.call_plan import FittingEncoder
from email_platform.adapters.providers.classification import (
    ClassificationTable,
    Outcome,
    provider_error,
    quoted,
    retry_after_seconds,
    settle,
)
from email_platform.adapters.providers.http_provider import (
    UnreadableAnswerError,
    required_list,
    required_text,
)
from email_platform.adapters.providers.http_status import note_http_status
from email_platform.adapters.providers.http_transport import MAXIMUM_CONNECTIONS, CallTimeouts
from email_platform.adapters.providers.limits import SES_LIMITS
from email_platform.adapters.providers.ses_request import SesPlan
from email_platform.domain.ports import BulkCall, EncodedCall, Fit, ProviderLimits, RecipientResult
from email_platform.errors import (
    AccountRefusedError,
    CallNotAcceptedError,
    CallOutcomeUnknownError,
    CallRejectedError,
    ProviderError,
)

_THROTTLING_CODES = (
    *("TooManyRequestsException", "ThrottlingException", "Throttling"),
    *("RequestThrottled", "RequestThrottledException"),
)
_NOT_VERIFIED = (("not verified", Outcome.ACCOUNT_REFUSED),)
_DAILY_QUOTA = (("daily", Outcome.ACCOUNT_REFUSED),)
_NEVER_REACHED = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)
_TABLE = ClassificationTable(
    by_words={
        # An identity is the sender's, or in the sandbox also a recipient's: either way the account's to mend.
        **dict.fromkeys(("MessageRejected", "MESSAGE_REJECTED"), _NOT_VERIFIED),
        # The daily quota comes under the throttling codes too, but waiting a second does not help.
        **dict.fromkeys(_THROTTLING_CODES, _DAILY_QUOTA),
    },
    by_code={
        **dict.fromkeys(_THROTTLING_CODES, Outcome.THROTTLED),
        **dict.fromkeys(
            (
                "LimitExceededException",
                "AccountSuspendedException",
                "SendingPausedException",
                "MailFromDomainNotVerifiedException",
                "NotFoundException",
                "AccessDeniedException",
                "UnrecognizedClientException",
                "InvalidClientTokenId",
                "InvalidSignatureException",
                "SignatureDoesNotMatch",
                "ExpiredToken",
                "ExpiredTokenException",
                "RequestExpired",
                "IncompleteSignature",
                "OptInRequired",
            ),
            Outcome.ACCOUNT_REFUSED,
        ),
    },
    by_recipient_code={
        "ACCOUNT_THROTTLED": Outcome.THROTTLED,
        "TRANSIENT_FAILURE": Outcome.NOT_ACCEPTED,
        **dict.fromkeys(("MESSAGE_REJECTED", "INVALID_PARAMETER"), Outcome.UNCLEAR),
        **dict.fromkeys(
            (
                "MAIL_FROM_DOMAIN_NOT_VERIFIED",
                "CONFIGURATION_SET_NOT_FOUND",
                "TEMPLATE_NOT_FOUND",
                "ACCOUNT_SUSPENDED",
                "ACCOUNT_DAILY_QUOTA_EXCEEDED",
                "INVALID_SENDING_POOL_NAME",
                "ACCOUNT_SENDING_PAUSED",
                "CONFIGURATION_SET_SENDING_PAUSED",
            ),
            Outcome.ACCOUNT_REFUSED,
        ),
    },
)


def open_ses_client(
    *,
    region: str,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    endpoint_url: str | None = None,
    timeouts: CallTimeouts | None = None,
    max_connections: int = MAXIMUM_CONNECTIONS,
) -> Any:
    """A boto3 ``sesv2`` client that makes each call once.

    Without keys, boto3's usual chain (environment, profile, instance role) finds the credentials.
    """
    timeouts = timeouts or CallTimeouts()
    client = boto3.session.Session().client(
        "sesv2",
        region_name=region,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        endpoint_url=endpoint_url,
        config=Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=max_connections,
            connect_timeout=timeouts.connect_seconds,
            read_timeout=timeouts.read_seconds,
            # One pooled connection per thread: a proxy from the environment would hide who refused.
            proxies={},
        ),
    )
    client.meta.events.register("before-send.sesv2", _ask_for_a_connection_of_its_own)
    return client


def _ask_for_a_connection_of_its_own(request: Any, **_: Any) -> None:
    request.headers["Connection"] = "close"


class SesProvider:
    """One SES account in one region.

    The call runs in a thread of the adapter's own pool: cancelling the task that awaits `send` leaves the
    request running to its end, but its result is lost; the engine never cancels it.
    """

    name = "ses"
    table = _TABLE

    def __init__(
        self,
        client: Any,
        *,
        configuration_set: str | None = None,
        limits: ProviderLimits = SES_LIMITS,
        max_connections: int = MAXIMUM_CONNECTIONS,
        secrets: tuple[str, ...] = (),
    ) -> None:
        """Take over the client.

        Args:
            client: see `open_ses_client`; closed with the adapter.
            configuration_set: through which SES publishes its events.
            limits: `SES_LIMITS`, or lower.
            max_connections: as many threads, and the client's pool size.
            secrets: texts that no error may quote.
        """
        self._client = client
        self._secrets = secrets
        self._configuration_set = configuration_set
        self._limits = limits
        self._encoder = FittingEncoder(lambda call: SesPlan(call, configuration_set))
        # As many threads as pooled connections: a thread more would only open and drop a connection.
        self._threads = ThreadPoolExecutor(max_connections, thread_name_prefix="ses")

    @property
    def limits(self) -> ProviderLimits:
        """What SES allows and promises."""
        return self._limits

    def fit(self, call: BulkCall) -> Fit:
        """How many of the call's first recipients fit one request; see `fit_plan`.

        Raises:
            InvalidTemplateError: nobody could be sent this.
        """
        return self._encoder.fit(call, self._limits)

    def encode(self, call: BulkCall) -> EncodedCall:
        """The parameters of ``SendBulkEmail`` as JSON; the same call always gives the same bytes.

        Raises:
            InvalidTemplateError: the call breaks one of SES's limits or a header rule.
        """
        return self._encoder.encode(call, self._limits)

    async def send(self, call: EncodedCall) -> tuple[RecipientResult, ...]:
        """Make the call once and return one result per recipient, in order.

        Raises:
            CallThrottledError, CallNotAcceptedError: nothing was accepted; may be tried again.
            CallRejectedError: refused as a whole; `blame` says what is known of why.
            AccountRefusedError: the sender or the account cannot send.
            CallOutcomeUnknownError: may have been accepted.
        """
        in_context = copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._threads, in_context, self._send, call)

    async def aclose(self) -> None:
        """Wait for calls in flight, then close connections."""
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._client.close)

    def _send(self, call: EncodedCall) -> tuple[RecipientResult, ...]:
        try:
            answer = self._client.send_bulk_email(**orjson.loads(call.body))
        except ClientError as refused:
            # Without its cause: boto3's message quotes addresses and keys, and a traceback would show it.
            raise self._refusal(refused) from None
        except ParamValidationError as invalid:
            raise CallRejectedError(f"ses: {quoted(str(invalid), *self._secrets)}", "ParamValidation") from invalid
        except (NoCredentialsError, PartialCredentialsError) as missing:
            raise AccountRefusedError(f"ses: {quoted(str(missing))}") from missing
        except BotoCoreError as failure:
            named = f"{type(failure).__name__}: {quoted(str(failure))}"
            # An SSLError may also come while reading the answer; only a refused certificate proves the handshake.
            refused_certificate = isinstance(failure, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(failure)
            if isinstance(failure, _NEVER_REACHED) or refused_certificate:
                raise CallNotAcceptedError(f"ses: not reached: {named}") from failure
            raise CallOutcomeUnknownError(f"ses: no answer after the request began: {named}") from failure
        note_http_status(int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)))
        try:
            results = _results(answer, call.recipient_count)
        except (UnreadableAnswerError, KeyError, TypeError, AttributeError) as broken:
            raise CallOutcomeUnknownError(f"ses: an answer that cannot be read ({broken})") from broken
        return settle(self.name, results, self.table)

    def _refusal(self, refused: ClientError) -> ProviderError:
        error = refused.response.get("Error", {})
        metadata = refused.response.get("ResponseMetadata", {})
        code, message = str(error.get("Code", "")), str(error.get("Message", ""))
        status = int(metadata.get("HTTPStatusCode", 0))
        note_http_status(status)
        outcome = self.table.outcome(status, code, message)
        return provider_error(
            outcome,
            f"ses: HTTP {status} ({quoted(code)}): {quoted(message, *self._secrets)}",
            code=code or str(status),
            retry_after_seconds=retry_after_seconds(metadata.get("HTTPHeaders", {})),
        )


def _results(answer: Mapping[str, Any], recipient_count: int) -> Sequence[RecipientResult]:
    results = []
    for entry in required_list(answer.get("BulkEmailEntryResults"), recipient_count, "BulkEmailEntryResults"):
        status = required_text(entry.get("Status"), "Status")
        if status == "SUCCESS":
            results.append(RecipientResult("accepted", required_text(entry.get("MessageId"), "MessageId")))
        else:
            results.append(
                RecipientResult("rejected", error_code=status, error_message=quoted(str(entry.get("Error") or "")))
            )
    return results
