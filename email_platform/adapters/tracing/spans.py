"""Spans of OpenTelemetry's SDK, and their way to the collector.

Names are those of OpenTelemetry's semantic conventions where there is one (``http.*``, ``db.*``, ``error.type``), and
``email_platform.*`` otherwise. The queue is OpenTelemetry's `BatchSpanProcessor`: bounded (``OTEL_BSP_MAX_QUEUE_SIZE``,
2,048 spans), emptied by a thread of its own; what does not fit is dropped (opentelemetry-sdk 1.45,
``sdk/_shared_internal``).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from threading import Thread
from uuid import UUID

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context

from email_platform.adapters.clickhouse.targets import TARGETS
from email_platform.adapters.providers.http_status import ON_HTTP_STATUS
from email_platform.adapters.tracing import AttributeValue, LoadGroup, Note, StepTrace
from email_platform.domain.campaigns import Sender
from email_platform.domain.ports import (
    BulkCall,
    EmailProvider,
    EncodedCall,
    Fit,
    LoadOutcome,
    ProviderLimits,
    RecipientResult,
    StagedObject,
)
from email_platform.errors import (
    AccountRefusedError,
    CallNotAcceptedError,
    CallRejectedError,
    CallThrottledError,
)

_NAME = "email-platform"


def trace_id_of(run_id: str) -> int:
    """The id of the trace that all steps of a run are in; of 16 bytes.

    A hash and not the run's UUID itself: samplers by ratio take the id's last bytes for random, and a UUID has fixed
    bits there.
    """
    return int.from_bytes(sha256(run_id.encode()).digest()[:16], "big")


class _RunIds(RandomIdGenerator):
    """Random spans in the trace of one run."""

    def __init__(self, run_id: str) -> None:
        self._trace_id = trace_id_of(run_id)

    def generate_trace_id(self) -> int:
        return self._trace_id


@contextmanager
def exported_step(
    otlp_url: str, name: str, run_id: str, attributes: Mapping[str, AttributeValue], flush_seconds: float
) -> Iterator[tuple[StepTrace, Note]]:
    """The step's span and what traces its calls and loads; at the end the spans go out, or are dropped.

    Args:
        otlp_url: the collector's.
        name: of the step.
        run_id: of its run.
        attributes: of the step, and of every call and load within it.
        flush_seconds: how long the end waits for the collector.
    """
    # Without its exit handler: a process that ends waits for no collector.
    provider = TracerProvider(resource=_resource(), id_generator=_RunIds(run_id), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{otlp_url}/v1/traces")))
    tracer = provider.get_tracer(_NAME, version(_NAME))
    of_all = {"email_platform.run.id": run_id, **attributes}
    step = tracer.start_span(name, Context(), attributes=of_all)
    try:
        yield _Spans(tracer, set_span_in_context(step, Context()), of_all), step.set_attributes
    except BaseException as error:
        _failed(step, error)
        raise
    finally:
        step.end()
        _flushed(provider, flush_seconds)


def _resource() -> Resource:
    """Who speaks: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come before our own name."""
    own: dict[str, AttributeValue] = {
        "service.name": _NAME,
        "service.version": version(_NAME),
        "process.pid": os.getpid(),
    }
    return Resource(own).merge(OTELResourceDetector().detect())


def _flushed(provider: TracerProvider, seconds: float) -> None:
    """Let the spans go out for so long and no longer: the exporter tries a dead collector again for ten seconds."""
    ending = Thread(target=provider.shutdown, name="trace-flush", daemon=True)
    ending.start()
    ending.join(seconds)


def _failed(span: Span, error: BaseException) -> None:
    """Say what kind of error it was; its text may quote an address."""
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(StatusCode.ERROR)


class _Spans:
    """Makes the spans of one step's calls and loads; used by several threads at once."""

    def __init__(self, tracer: Tracer, context: Context, attributes: Mapping[str, AttributeValue]) -> None:
        self._tracer = tracer
        self._context = context
        self._attributes = attributes

    def provider(self, provider: EmailProvider, sender: Sender) -> EmailProvider:
        return _TracedProvider(provider, sender, self)

    def load(self, load: LoadGroup) -> LoadGroup:
        def traced(objects: Sequence[StagedObject]) -> Sequence[LoadOutcome]:
            target = TARGETS.get(objects[0].kind)
            attributes: dict[str, AttributeValue] = {
                "db.system.name": "clickhouse",
                "db.operation.name": "INSERT",
                "db.collection.name": "" if target is None else target.table,
                "email_platform.load.objects": len(objects),
            }
            with self.span("load", attributes) as span:
                outcomes = load(objects)
                span.set_attribute("email_platform.load.rows", sum(one.rows for one in outcomes))
                span.set_attribute("email_platform.load.held_before", sum(one.was_held for one in outcomes))
                span.set_attribute("email_platform.load.quarantined", sum(bool(one.problem) for one in outcomes))
                return outcomes

        return traced

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, AttributeValue]) -> Iterator[Span]:
        """A span of a request to somebody else, below the step's."""
        span = self._tracer.start_span(
            name, self._context, kind=SpanKind.CLIENT, attributes={**self._attributes, **attributes}
        )
        try:
            yield span
        except BaseException as error:
            _failed(span, error)
            raise
        finally:
            span.end()


class _TracedProvider:
    """A provider whose calls have spans; otherwise the provider itself."""

    def __init__(self, provider: EmailProvider, sender: Sender, spans: _Spans) -> None:
        self._provider = provider
        self._spans = spans
        self._attempts: Counter[UUID] = Counter()
        self._account = {
            "http.request.method": "POST",
            "email_platform.provider.name": sender.provider,
            "email_platform.provider.account": sender.provider_account,
        }

    @property
    def name(self) -> str:
        return self._provider.name

    @property
    def limits(self) -> ProviderLimits:
        return self._provider.limits

    def fit(self, call: BulkCall) -> Fit:
        return self._provider.fit(call)

    def encode(self, call: BulkCall) -> EncodedCall:
        return self._provider.encode(call)

    async def aclose(self) -> None:
        await self._provider.aclose()

    async def send(self, call: EncodedCall) -> tuple[RecipientResult, ...]:
        self._attempts[call.call_id] += 1
        attributes: dict[str, AttributeValue] = {
            **self._account,
            "email_platform.call.id": str(call.call_id),
            "email_platform.call.attempt": self._attempts[call.call_id],
            "email_platform.call.recipients": call.recipient_count,
        }
        with self._spans.span("send_call", attributes) as span:
            token = ON_HTTP_STATUS.set(lambda status: span.set_attribute("http.response.status_code", status))
            try:
                results = await self._provider.send(call)
            except BaseException as error:
                span.set_attribute("email_platform.call.outcome", _outcome_of(error))
                span.set_attribute("email_platform.call.throttled", isinstance(error, CallThrottledError))
                raise
            finally:
                ON_HTTP_STATUS.reset(token)
            counts = Counter(result.status for result in results)
            span.set_attributes(
                {
                    "email_platform.call.outcome": "accepted" if counts["accepted"] else counts.most_common(1)[0][0],
                    "email_platform.call.throttled": any(result.throttled for result in results),
                    **{f"email_platform.call.{status}": count for status, count in counts.items()},
                }
            )
            return results


def _outcome_of(error: BaseException) -> str:
    """What a call ended with that has no result per recipient, in the ledger's words (`judge_failure`)."""
    match error:
        case CallThrottledError() | CallNotAcceptedError():
            return "not_accepted"
        case CallRejectedError():
            return "rejected"
        case AccountRefusedError():
            return "account_refused"
        case _:
            return "unknown"
