"""Amazon SES v2 ``SendBulkEmail`` through boto3.

Invariant: one `send` is one HTTP request: boto3's retries are off (``total_max_attempts`` 1), since each of its
attempts would be a call that the ledger does not know of. Each request asks for a connection of its own, for the
reasons in `http_transport`.

Rendered contents: the call carries one inline template, ``{{subject}}``, ``{{html}}`` and ``{{text}}``, and each
entry its values as ReplacementTemplateData. Inline templates know simple substitutions only, and SES does not
escape HTML (Developer Guide, "Using templates to send personalized email"). Limits of the same page and of the
API's model: 50 recipients, 1 MB of input JSON for the whole call (on average 20 kB a recipient at 50), 256 KiB
of data and 15 headers a recipient. Where every recipient has both bodies or only one, the template has the same
parts; in a mixed call a recipient without one gets it empty.

SES honours no idempotency key. It counts its rate per recipient and may accept a part of a call: the others come
back as ``deferred`` with the code ``ACCOUNT_THROTTLED``.

| answer | outcome | why (API reference, "SendBulkEmail" and "Common errors") |
| --- | --- | --- |
| 200 | per entry | ``Status``, ``Error``, ``MessageId`` in request order |
| MessageRejected, BadRequestException | rejected | invalid content or parameter; validated before acceptance |
| TooManyRequestsException, Throttling… | throttled | rate; with "daily" in its message: account refused |
| AccountSuspended, SendingPaused, LimitExceeded, MailFromDomainNotVerified, NotFound | account refused | |
| 401, 403, credentials missing or wrong, ExpiredToken | account refused | |
| 500, 502, 503, 504 | unknown | "temporary failure of the server": no promise that nothing was accepted |
| no connection, connect timeout, DNS, certificate | not accepted | botocore raises these before it writes |
| connection closed, read timeout, other client errors | unknown | after the request began |

Entry statuses MESSAGE_REJECTED, INVALID_PARAMETER and FAILED refuse that recipient; all others concern the
account or the moment (see `SesProvider.table`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    json_bytes,
    required_list,
    required_text,
)
from email_platform.adapters.providers.http_transport import MAXIMUM_CONNECTIONS, CallTimeouts
from email_platform.adapters.providers.message_fields import (
    ascii_domain_address,
    ascii_token,
    call_tags,
    check_body_size,
    check_call,
    encoded_header_value,
    encoded_mailbox,
    fit_by_encoding,
    rendered,
)
from email_platform.domain.ports import BulkCall, EncodedCall, Fit, ProviderLimits, RecipientResult, RenderedRecipient
from email_platform.errors import (
    AccountRefusedError,
    CallNotAcceptedError,
    CallOutcomeUnknownError,
    CallRejectedError,
    InvalidTemplateError,
    ProviderError,
)

SES_LIMITS = ProviderLimits(
    recipients_per_call=50, honours_idempotency_keys=False, idempotency_seconds=0, body_bytes=1_000_000
)
MAXIMUM_TEMPLATE_DATA_CHARACTERS = 262_144
MAXIMUM_HEADERS = 15
MAXIMUM_HEADER_CHARACTERS = 995

_NEVER_REACHED = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)


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
    request running to its end, but its result is lost; the engine shields, as with the other adapters.
    """

    name = "ses"
    table = ClassificationTable(
        by_code={
            **dict.fromkeys(
                (
                    "TooManyRequestsException",
                    "ThrottlingException",
                    "Throttling",
                    "RequestThrottled",
                    "RequestThrottledException",
                ),
                Outcome.THROTTLED,
            ),
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
            **dict.fromkeys(("MessageRejected", "BadRequestException"), Outcome.REJECTED),
        },
        by_recipient_code={
            "ACCOUNT_THROTTLED": Outcome.THROTTLED,
            "TRANSIENT_FAILURE": Outcome.NOT_ACCEPTED,
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
        # As many threads as pooled connections: a thread more would only open and drop a connection.
        self._threads = ThreadPoolExecutor(max_connections, thread_name_prefix="ses")

    @property
    def limits(self) -> ProviderLimits:
        """What SES allows and promises."""
        return self._limits

    def fit(self, call: BulkCall) -> Fit:
        """See `EmailProvider.fit`."""
        return fit_by_encoding(self.encode, call, self._limits)

    def encode(self, call: BulkCall) -> EncodedCall:
        """The parameters of ``SendBulkEmail`` as JSON; the same call always gives the same bytes.

        Raises:
            InvalidTemplateError: the call breaks one of SES's limits or a header rule.
        """
        check_call(call, self._limits)
        tags = call_tags(call)
        content = {"Subject": "{{subject}}"}
        if any(recipient.html for recipient in rendered(call)):
            content["Html"] = "{{html}}"
        if any(recipient.text for recipient in rendered(call)):
            content["Text"] = "{{text}}"
        document: dict[str, object] = {
            "FromEmailAddress": encoded_mailbox(call.from_name, call.from_address),
            "DefaultContent": {"Template": {"TemplateContent": content, "TemplateData": "{}"}},
            "BulkEmailEntries": [_entry(recipient, tags) for recipient in rendered(call)],
        }
        if call.reply_to:
            document["ReplyToAddresses"] = [ascii_domain_address(call.reply_to)]
        if self._configuration_set:
            document["ConfigurationSetName"] = self._configuration_set
        body = json_bytes(document)
        check_body_size(call, body, self._limits, self.name)
        return EncodedCall(call_id=call.call_id, body=body, recipient_count=len(call.recipients))

    async def send(self, call: EncodedCall) -> tuple[RecipientResult, ...]:
        """Make the call once and return one result per recipient, in order.

        Raises:
            CallThrottledError, CallNotAcceptedError: nothing was accepted; may be tried again.
            CallRejectedError: refused for good as a whole.
            AccountRefusedError: the account cannot send.
            CallOutcomeUnknownError: may have been accepted.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._send, call)

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
        outcome = self.table.outcome(status, code)
        # The daily quota comes under the throttling codes too, but waiting a second does not help.
        if outcome is Outcome.THROTTLED and "daily" in message.lower():
            outcome = Outcome.ACCOUNT_REFUSED
        return provider_error(
            outcome,
            f"ses: HTTP {status} ({quoted(code)}): {quoted(message, *self._secrets)}",
            code=code or str(status),
            retry_after_seconds=retry_after_seconds(metadata.get("HTTPHeaders", {})),
        )


def _entry(recipient: RenderedRecipient, tags: Mapping[str, str]) -> dict[str, object]:
    data = json_bytes({"subject": recipient.subject, "html": recipient.html, "text": recipient.text}).decode()
    if len(data) > MAXIMUM_TEMPLATE_DATA_CHARACTERS:
        raise InvalidTemplateError(
            f"ses: the content for lead {recipient.lead_id} takes {len(data)} characters; "
            f"the limit is {MAXIMUM_TEMPLATE_DATA_CHARACTERS}"
        )
    entry: dict[str, object] = {
        "Destination": {"ToAddresses": [ascii_domain_address(recipient.address)]},
        "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": data}},
        # All tags on every entry: the documentation does not say whether defaults are added to replacements.
        "ReplacementTags": [
            {"Name": ascii_token(name), "Value": ascii_token(value)}
            for name, value in sorted({**tags, "message_id": str(recipient.message_id)}.items())
        ],
    }
    if recipient.headers:
        entry["ReplacementHeaders"] = _headers(recipient)
    return entry


def _headers(recipient: RenderedRecipient) -> list[dict[str, str]]:
    if len(recipient.headers) > MAXIMUM_HEADERS:
        raise InvalidTemplateError(
            f"ses: {len(recipient.headers)} headers for lead {recipient.lead_id}; the limit is {MAXIMUM_HEADERS}"
        )
    headers = []
    for name, value in sorted(recipient.headers.items()):
        encoded = encoded_header_value(value)
        if not 1 <= len(encoded) <= MAXIMUM_HEADER_CHARACTERS - len(name):
            raise InvalidTemplateError(
                f"ses: header {name} for lead {recipient.lead_id} is empty or longer than "
                f"{MAXIMUM_HEADER_CHARACTERS} characters with its name"
            )
        headers.append({"Name": name, "Value": encoded})
    return headers


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
