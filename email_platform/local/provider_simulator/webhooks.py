"""Events about accepted messages, POSTed signed until the receiver takes them.

The invariant: a post counts as delivered only after the receiver took it and that is on disk; until then it is
tried again, under the same id and with the same body (`webhook_outbox`).
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Awaitable, Callable

import httpx

from email_platform.local.provider_simulator.faults import unit_interval
from email_platform.local.provider_simulator.webhook_outbox import PostAttempt, WebhookOutbox
from email_platform.local.provider_simulator.webhook_plan import WebhookPlan, retry_pause_seconds
from email_platform.local.provider_simulator.webhook_signature import signed_headers

_MAXIMUM_WAITING_POSTS = 500
_CONCURRENT_POSTS = 8
_IDLE_SECONDS = 1.0


class WebhookDispatcher:
    """Delivers the outbox, forever; run it as one task and `wake` it after an acceptance.

    Args:
        sign_key: see `webhook_signature.signing_key`.
        now_ms: UTC milliseconds since the epoch.
        sleep: pauses the dispatcher, at most until it is woken.
    """

    def __init__(
        self,
        outbox: WebhookOutbox,
        plan: WebhookPlan,
        sign_key: bytes,
        seed: int,
        now_ms: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._outbox = outbox
        self._plan = plan
        self._sign_key = sign_key
        self._seed = seed
        self._now_ms = now_ms
        self._sleep = sleep
        self._awake = asyncio.Event()
        self._stopping = False
        # (next attempt, post); everything that is undelivered and expanded is here or in the running round.
        self._waiting: list[tuple[int, int]] = outbox.undelivered()
        heapq.heapify(self._waiting)
        self._refusals: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"WebhookDispatcher(plan={self._plan!r})"

    @property
    def plan(self) -> WebhookPlan:
        """The plan in force."""
        return self._plan

    def steer(self, plan: WebhookPlan) -> None:
        """Put another plan in force; posts that wait for a retry are tried at once."""
        self._plan = plan
        self._refusals.clear()
        now_ms = self._now_ms()
        self._waiting = [(min(due_at_ms, now_ms), post) for due_at_ms, post in self._waiting]
        heapq.heapify(self._waiting)
        self.wake()

    def wake(self) -> None:
        """Look for new events now."""
        self._awake.set()

    def stop(self) -> None:
        """End `run` after the current round."""
        self._stopping = True
        self.wake()

    async def run(self) -> None:
        """Deliver until `stop`."""
        # trust_env off: a proxy from the environment must not see events meant for this machine.
        async with httpx.AsyncClient(trust_env=False) as client:
            while not self._stopping:
                self._awake.clear()
                plan = self._plan
                if plan.url is None:
                    await self._awake.wait()
                    continue
                expanded = await self._expand(plan)
                delivered = await self._deliver_due(client, plan)
                if not expanded and not delivered:
                    await self._pause()

    async def _pause(self) -> None:
        next_due_ms = self._waiting[0][0] if self._waiting else None
        pause_seconds = _IDLE_SECONDS
        if next_due_ms is not None:
            pause_seconds = min(pause_seconds, max(0.001, (next_due_ms - self._now_ms()) / 1000))
        woken = asyncio.ensure_future(self._awake.wait())
        slept = asyncio.ensure_future(self._sleep(pause_seconds))
        try:
            await asyncio.wait((woken, slept), return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            slept.cancel()

    async def _expand(self, plan: WebhookPlan) -> bool:
        if len(self._waiting) >= _MAXIMUM_WAITING_POSTS:
            return False
        posts = await self._outbox.expand(plan)
        for due_at_ms, post in posts:
            heapq.heappush(self._waiting, (due_at_ms, post))
        return bool(posts)

    async def _deliver_due(self, client: httpx.AsyncClient, plan: WebhookPlan) -> bool:
        now_ms = self._now_ms()
        round_posts: list[int] = []
        while self._waiting and self._waiting[0][0] <= now_ms and len(round_posts) < _CONCURRENT_POSTS:
            round_posts.append(heapq.heappop(self._waiting)[1])
        if not round_posts:
            return False
        attempts = await asyncio.gather(*(self._deliver(client, plan, post) for post in round_posts))
        now_ms = self._now_ms()
        # Reported before it counts as done: a kill in between sends the post again, under the same id.
        await self._outbox.report(attempts, now_ms)
        for attempt in attempts:
            if attempt.delivered:
                self._refusals.pop(attempt.post_sequence, None)
                continue
            self._refusals[attempt.post_sequence] += 1
            pause_seconds = retry_pause_seconds(plan, self._refusals[attempt.post_sequence])
            heapq.heappush(self._waiting, (now_ms + int(pause_seconds * 1000), attempt.post_sequence))
        return True

    async def _deliver(self, client: httpx.AsyncClient, plan: WebhookPlan, post: int) -> PostAttempt:
        webhook_id, body = self._outbox.content(post)
        delivered = await self._post(client, plan, webhook_id, body)
        attempts = 1
        if delivered:
            self.counts["delivered_posts"] += 1
            if unit_interval(self._seed, post, "duplicate") < plan.duplicate_probability:
                self.counts["duplicated_posts"] += 1
                attempts += 1
                await self._post(client, plan, webhook_id, body)
        return PostAttempt(post, attempts, delivered)

    async def _post(self, client: httpx.AsyncClient, plan: WebhookPlan, webhook_id: str, body: bytes) -> bool:
        assert plan.url is not None
        headers = signed_headers(self._sign_key, webhook_id, self._now_ms() // 1000, body)
        self.counts["attempts"] += 1
        try:
            answer = await client.post(
                plan.url,
                content=body,
                headers={**headers, "content-type": "application/json"},
                timeout=plan.timeout_seconds,
            )
        except httpx.HTTPError:
            self.counts["unreachable"] += 1
            return False
        if answer.is_success:
            return True
        self.counts["refused"] += 1
        return False
