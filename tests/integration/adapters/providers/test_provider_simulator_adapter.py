"""The simulator's adapter against the simulator's process: what one says, the other's log confirms."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from email_platform.adapters.providers import CallTimeouts, account_from_variables, build_provider
from email_platform.domain.identity import call_id, message_id
from email_platform.domain.message import Skeleton
from email_platform.domain.ports import BulkCall, EmailProvider, RecipientResult
from email_platform.errors import (
    AccountRefusedError,
    CallNotAcceptedError,
    CallOutcomeUnknownError,
    CallRejectedError,
    CallThrottledError,
    ProviderError,
)
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.local.stack.part import free_port
from tests.fakes.whole_messages import WholeMessage, call_of

pytestmark = pytest.mark.integration

_API_KEY = "adapter-key"
_PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class _Simulator:
    url: str
    log: AcceptedLog
    admin: httpx.Client

    def next_faults(self, *faults: str, **plan: float) -> None:
        self.admin.put("/admin/faults", json={"script": list(faults), **plan}).raise_for_status()


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Simulator]:
    folder: Path = tmp_path_factory.mktemp("simulator")
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "email_platform.local.provider_simulator"),
            *("--data-folder", str(folder), "--port", str(port), "--exit-with-parent"),
        ],
        env={
            **os.environ,
            "EMAIL_PLATFORM_PROVIDER_API_KEY": _API_KEY,
            "EMAIL_PLATFORM_PROVIDER_WEBHOOK_SECRET": "whsec_" + base64.b64encode(b"s" * 32).decode(),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(
        base_url=url, headers={"authorization": f"Bearer {_API_KEY}"}, trust_env=False, timeout=_PATIENCE_SECONDS
    ) as admin:
        try:
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while not _is_healthy(admin):
                assert process.poll() is None, "the simulator ended"
                assert time.monotonic() < deadline, "the simulator did not answer in time"
                time.sleep(0.02)
            yield _Simulator(url, AcceptedLog(folder), admin)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(_PATIENCE_SECONDS) == 0


def _is_healthy(admin: httpx.Client) -> bool:
    try:
        return admin.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def _call(campaign_id: int, *addresses: str) -> BulkCall:
    return call_of(
        *(
            WholeMessage(
                lead_id=lead_id,
                message_id=message_id(campaign_id, lead_id),
                address=address,
                subject="Good day",
                html="<p>Good day</p>",
                text="",
                headers={"List-Unsubscribe": "<https://example.org/u>"},
            )
            for lead_id, address in enumerate(addresses or ("ann@example.com", "bob@example.com"), start=1)
        ),
        call_id=call_id(campaign_id, 0, 0),
        campaign_id=campaign_id,
        from_address="news@example.org",
        from_name='News "Ž", Ltd.',
        reply_to=None,
        tags={},
    )


def _with_provider(
    simulator: _Simulator,
    work: Callable[[EmailProvider], Any],
    *,
    key: str = _API_KEY,
    timeouts: CallTimeouts | None = None,
) -> Any:
    variables = {
        "EMAIL_PLATFORM_SIMULATOR_BASE_URL": simulator.url,
        "EMAIL_PLATFORM_PROVIDER_API_KEY": key,
    }
    account = account_from_variables("simulator", "default", variables)

    async def run() -> Any:
        provider = build_provider("simulator", account, timeouts=timeouts)
        try:
            return await work(provider)
        finally:
            await provider.aclose()

    return asyncio.run(run())


def test_what_the_adapter_reports_is_what_the_simulator_logged(simulator: _Simulator) -> None:
    call = _call(1, "ann@example.com", "no mailbox", "bob@example.com")

    async def work(provider: EmailProvider) -> Any:
        return await provider.send(provider.encode(call))

    results = _with_provider(simulator, work)
    assert [result.status for result in results] == ["accepted", "rejected", "accepted"]
    assert results[1].error_code == "InvalidAddress"
    rows = {row.message_id: row.provider_message_id for row in simulator.log.page("1")}
    assert rows == {str(call.recipients[index].message_id): results[index].provider_message_id for index in (0, 2)}


def test_a_repeated_call_is_accepted_once_and_answered_alike(simulator: _Simulator) -> None:
    async def work(provider: EmailProvider) -> Any:
        call = provider.encode(_call(2))
        return await provider.send(call), await provider.send(call)

    first, second = _with_provider(simulator, work)
    assert first == second
    assert simulator.log.duplicates("2") == {}


@pytest.mark.parametrize("fault", ["error_5xx_after", "reset_after", "error_5xx_before", "reset_before"])
def test_an_unknown_call_is_settled_by_the_same_call(simulator: _Simulator, fault: str) -> None:
    campaign_id = 10 + len(fault)
    simulator.next_faults(fault)

    async def work(provider: EmailProvider) -> Any:
        call = provider.encode(_call(campaign_id))
        with pytest.raises(CallOutcomeUnknownError):
            await provider.send(call)
        return await provider.send(call)

    assert [result.status for result in _with_provider(simulator, work)] == ["accepted", "accepted"]
    assert simulator.log.summary(str(campaign_id)).accepted_rows == 2
    assert simulator.log.duplicates(str(campaign_id)) == {}


def test_an_answer_that_never_comes_is_unknown(simulator: _Simulator) -> None:
    simulator.next_faults("drop_response")

    async def work(provider: EmailProvider) -> None:
        with pytest.raises(CallOutcomeUnknownError):
            await provider.send(provider.encode(_call(3)))

    _with_provider(simulator, work, timeouts=CallTimeouts(read_seconds=0.3))
    assert simulator.log.summary("3").accepted_rows == 2


def test_a_call_under_way_with_the_same_key_is_unknown(simulator: _Simulator) -> None:
    simulator.next_faults("slow", slow_seconds=1.0)

    async def work(provider: EmailProvider) -> Any:
        call = provider.encode(_call(4))
        outcomes = await asyncio.gather(provider.send(call), provider.send(call), return_exceptions=True)
        return sorted(type(outcome).__name__ for outcome in outcomes)

    assert _with_provider(simulator, work) == ["CallOutcomeUnknownError", "tuple"]


def test_another_payload_under_a_used_key_is_unknown(simulator: _Simulator) -> None:
    async def work(provider: EmailProvider) -> None:
        call = _call(5)
        await provider.send(provider.encode(call))
        with pytest.raises(CallOutcomeUnknownError):
            await provider.send(provider.encode(replace(call, from_name="Other")))

    _with_provider(simulator, work)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("throttle", CallThrottledError),
        ("outage", CallNotAcceptedError),
        ("refuse_account", AccountRefusedError),
    ],
)
def test_a_fault_that_leaves_nothing_accepted_is_reported_as_such(
    simulator: _Simulator, fault: str, error: type[Exception]
) -> None:
    simulator.next_faults(fault, throttle_retry_after_seconds=2.5)

    async def work(provider: EmailProvider) -> Any:
        with pytest.raises(error) as caught:
            await provider.send(provider.encode(_call(6)))
        return caught.value

    refusal = _with_provider(simulator, work)
    assert getattr(refusal, "retry_after_seconds", 2.5) == 2.5
    assert simulator.log.summary("6").accepted_rows == 0


def test_a_wrong_key_refuses_the_account(simulator: _Simulator) -> None:
    async def work(provider: EmailProvider) -> None:
        with pytest.raises(AccountRefusedError):
            await provider.send(provider.encode(_call(7)))

    _with_provider(simulator, work, key="wrong")


def test_a_call_that_breaks_the_shape_is_rejected_as_a_whole(simulator: _Simulator) -> None:
    async def work(provider: EmailProvider) -> None:
        encoded = provider.encode(replace(_call(8), from_address="nobody"))
        with pytest.raises(CallRejectedError) as caught:
            await provider.send(encoded)
        assert caught.value.code == "ValidationError"

    _with_provider(simulator, work)
    assert simulator.log.summary("8").accepted_rows == 0


def test_an_answer_that_comes_twice_is_not_taken_for_the_next_call_s(simulator: _Simulator) -> None:
    simulator.admin.put("/admin/faults", json={"probabilities": {"duplicate_response": 1.0}}).raise_for_status()

    async def work(provider: EmailProvider) -> list[tuple[RecipientResult, ...]]:
        # One after the other, so that each would find the last one's connection in the pool.
        return [await provider.send(provider.encode(_call(900 + number))) for number in range(8)]

    for number, results in enumerate(_with_provider(simulator, work)):
        logged = [row.provider_message_id for row in simulator.log.rows(str(900 + number))]
        assert [result.provider_message_id for result in results] == logged
    simulator.admin.delete("/admin/faults").raise_for_status()


@pytest.fixture
def refusing(simulator: _Simulator) -> Iterator[Callable[..., None]]:
    def refuse(**plan: Any) -> None:
        simulator.admin.put("/admin/refusals", json=plan).raise_for_status()

    yield refuse
    simulator.admin.delete("/admin/refusals").raise_for_status()


def _refusal(simulator: _Simulator, call: BulkCall) -> ProviderError:
    async def work(provider: EmailProvider) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            await provider.send(provider.encode(call))
        return caught.value

    refused: ProviderError = _with_provider(simulator, work)
    assert simulator.log.summary(str(call.campaign_id)).accepted_rows == 0
    return refused


def test_a_call_above_a_proxys_size_is_refused_for_its_size(
    simulator: _Simulator, refusing: Callable[..., None]
) -> None:
    refusing(body_bytes=200)
    refused = _refusal(simulator, _call(7021))
    assert isinstance(refused, CallRejectedError)
    assert refused.blame == "size"


def test_a_refused_sender_refuses_the_account(simulator: _Simulator, refusing: Callable[..., None]) -> None:
    refusing(senders=["news@example.org"])
    assert isinstance(_refusal(simulator, _call(7022)), AccountRefusedError)


def test_a_call_refused_for_one_address_blames_a_recipient_without_a_name(
    simulator: _Simulator, refusing: Callable[..., None]
) -> None:
    refusing(recipients=["bob@example.com"])
    refused = _refusal(simulator, _call(7023))
    assert isinstance(refused, CallRejectedError)
    assert (refused.blame, refused.code, refused.culprits) == ("recipient", "InvalidRecipient", frozenset())


def test_entries_refused_for_the_accounts_sake_are_put_back_with_the_mark(
    simulator: _Simulator, refusing: Callable[..., None]
) -> None:
    refusing(entries_accepted=1)
    accepted, refused = _with_provider(simulator, lambda provider: provider.send(provider.encode(_call(7024))))
    assert accepted.status == "accepted"
    assert (refused.status, refused.account_refused, refused.error_code) == ("deferred", True, "AccountPaused")
    assert simulator.log.summary("7024").accepted_rows == 1
    refusing(entries_accepted=0)
    assert isinstance(_refusal(simulator, _call(7025)), AccountRefusedError)


def test_the_simulator_puts_together_what_rendering_gives(simulator: _Simulator) -> None:
    skeleton = Skeleton(
        subject=("Dear ", 0),
        html=("<style>@media{a{b:c}}</style>{", 0, "} \\", 1, " {{v1}}"),
        text=("{{", 0, "}}", 1),
        headers={"List-Unsubscribe": ("<", 1, ">")},
        value_count=2,
    )
    one, two = _call(7026).recipients
    values = (("Ann {{v1}}", "https://example.org/1"), ("\\{{v0}}", "https://example.org/2"))
    recipients = (replace(one, values=values[0]), replace(two, values=values[1]))
    call = replace(_call(7026), skeleton=skeleton, recipients=recipients)
    _with_provider(simulator, lambda provider: provider.send(provider.encode(call)))
    sent = simulator.admin.get("/admin/recent_messages").json()["messages"][-2:]
    for recipient, message in zip(recipients, sent, strict=True):
        whole = skeleton.message(recipient.values)
        assert (message["subject"], message["html"], message["text"]) == (whole.subject, whole.html, whole.text)
        assert message["headers"] == whole.headers
