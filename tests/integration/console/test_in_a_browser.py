"""A person's way through the console in a real browser, from the first sender to the recipient who unsubscribes.

The short form stands in for Dagster: it calls the steps of the campaign's run in their order, so that the pause comes
between two chunks. ``make browser`` takes the same way on the whole stack, with Dagster's daemon and the reports.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from email_platform.adapters.assembly import open_oltp, open_parts
from email_platform.adapters.postgres.tables import lead, sender, suppression
from email_platform.content.unsubscribe import UnsubscribeSigner
from email_platform.errors import CampaignStoppedError
from email_platform.local.stack.part import free_port, http_status
from email_platform.local.stack.stack import ALL_PART_NAMES, clean_environment, running_stack
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.parts import Parts
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings
from tests.integration.api.conftest import Api, served
from tests.integration.campaign_rows import in_city, unique

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install .[dev]")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

CHROMIUM = shutil.which("chromium")
IS_FULL = os.environ.get("EMAIL_PLATFORM_BROWSER") == "full"
PICTURES = os.environ.get("EMAIL_PLATFORM_BROWSER_PICTURES")
WAIT_SECONDS = 240 if IS_FULL else 60

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(1200 if IS_FULL else 300),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"),
]


@dataclass
class World:
    """What the console runs on, and who sends the campaigns that it queues."""

    url: str
    settings: Settings
    engine: Engine
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    @property
    def api(self) -> Api:
        return Api(self.url, self.engine, self.settings)

    def sends(self, steps: Callable[[Parts], object]) -> Any:
        """Do it as the campaign's run does, in a thread: Playwright has this one's event loop."""

        def work() -> object:
            with open_parts(self.settings) as parts:
                return steps(parts)

        return self.thread.submit(work).result()


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as opened:
        if IS_FULL:
            folder = tmp_path_factory.mktemp("browser") / "state"
            settings = opened.enter_context(
                running_stack(folder, environ=clean_environment(), parts=set(ALL_PART_NAMES) - {"metrics"})
            )
            url = f"http://127.0.0.1:{settings.api_port}"
        else:
            stack: Settings = request.getfixturevalue("stack")
            settings = opened.enter_context(with_receiver(stack.model_copy(update={"chunk_rows": 100})))
            url = opened.enter_context(served(settings))
        yield World(url, settings, opened.enter_context(open_oltp(settings)))


@contextmanager
def with_receiver(settings: Settings) -> Iterator[Settings]:
    """The settings with a receiver of its own, which links lead to."""
    port = free_port()
    settings = settings.model_copy(update={"public_base_url": f"http://127.0.0.1:{port}"})
    process = subprocess.Popen(
        [sys.executable, "-m", "email_platform.receiver", "--port", str(port), "--exit-with-parent"],
        env={**clean_environment(), **settings.variables(), "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: http_status(port, "/health") == 200)
        yield settings
    finally:
        process.terminate()
        process.wait()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def page(world: World) -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(base_url=world.url, viewport={"width": 1200, "height": 900})
        context.set_default_timeout(WAIT_SECONDS * 1000)
        opened = context.new_page()
        faults: list[str] = []
        opened.on("console", lambda message: faults.append(message.text) if is_fault(message, world.url) else None)
        opened.on("pageerror", lambda error: faults.append(str(error)))
        yield opened
        browser.close()
    assert not faults, "the browser complains, as of a policy that is broken"


def is_fault(message: Any, url: str) -> bool:
    """Whether the browser complains about the console; not that a form was refused, nor that a message's script was."""
    is_ours = message.type == "error" and message.location["url"].startswith(url)
    return bool(is_ours and "status of 422" not in message.text and "sandboxed" not in message.text)


def looks_right(page: Any, name: str) -> None:
    """Nothing of axe's rules that is serious or critical; in the short form few pages are looked at in the dark."""
    for scheme in ("light", "dark") if IS_FULL or PICTURES or name in ("form-with-problem", "campaign") else ("light",):
        page.emulate_media(color_scheme=scheme)
        found = axe.Axe().run(page, options={"resultTypes": ["violations"], "iframes": False})
        grave = [
            f"{one['id']}: {one['help']}: {[node['target'] for node in one['nodes'][:3]]}"
            for one in found.response["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert not grave, f"{name}, {scheme}: {grave}"
        if PICTURES:
            page.screenshot(path=str(Path(PICTURES) / f"{name}-{scheme}.png"), full_page=True)
    page.emulate_media(color_scheme="light")


def test_a_person_takes_a_campaign_from_the_idea_to_the_unsubscribed_recipient(page: Any, world: World) -> None:
    """Length: one way through every page, in the order in which a person takes it."""
    expect = playwright.expect
    expect.set_options(timeout=WAIT_SECONDS * 1000)
    recipients = 30_000 if IS_FULL else 300
    city = unique("city").replace(" ", "")
    address = f"{city}0@example.com"
    owner, news = f"{unique('ann')}@example.com", f"{unique('news')}@example.com"
    key = world.api.key("operator")
    name = unique("Spring sale")

    page.goto("/console/")
    looks_right(page, "login")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Campaigns")).to_be_visible()

    page.get_by_role("link", name="Senders").click()
    page.get_by_label("User's address").fill(owner)
    page.get_by_label("User's name").fill("Ann")
    page.get_by_role("button", name="Add the user").click()
    page.get_by_label("Address", exact=True).fill("news@nowhere")
    page.get_by_label("Name that recipients see").fill("The shop")
    page.get_by_label("Owner").select_option(owner)
    page.get_by_role("button", name="Add the sender").click()
    expect(page.get_by_role("alert")).to_contain_text("address")
    looks_right(page, "sender-with-problem")
    page.get_by_label("Address", exact=True).fill(news)
    page.get_by_role("button", name="Add the sender").click()
    page.get_by_role("button", name=f"Ask the provider about {news}").click()
    expect(page.get_by_role("status")).to_contain_text("not known")
    looks_right(page, "senders")

    page.get_by_role("link", name="Leads", exact=True).click()
    rows = "".join(f"{city}{number}@example.com,Ada,{city}\n" for number in range(recipients))
    file = {"name": "leads.csv", "mimeType": "text/csv", "buffer": f"E-Mail,first_name,city\n{rows}nobody,,\n".encode()}
    page.get_by_label("CSV file").set_input_files(file)
    page.get_by_label("What columns mean").fill("E-Mail=email")
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_role("status")).to_contain_text(f"{recipients:,} leads added")
    expect(page.get_by_role("region", name="Rows that cannot be kept")).to_contain_text("no address that can be mailed")
    looks_right(page, "leads")
    with world.engine.connect() as connection:
        lead_id = connection.execute(select(lead.c.id).where(lead.c.email == address)).scalar_one()
        sender_id = connection.execute(select(sender.c.id).where(sender.c.from_address == news)).scalar_one()

    page.get_by_role("link", name="Campaigns").click()
    page.get_by_role("link", name="New campaign").first.click()
    page.get_by_label("Name").fill(name)
    page.get_by_label("Sender").select_option(str(sender_id))
    page.get_by_label("Subject").fill("Hello {{ first_name }}, spring is here")
    page.get_by_label("HTML").fill("<h1>Hello {{ first_name }}</h1><p>20% off.</p>")
    page.get_by_label("Audience").fill('{"all": [{"field": "shoe", "op": "eq", "value": 1}]}')
    page.get_by_label("Lead's id or address").fill(address)
    page.get_by_role("button", name="Show what is typed").click()
    expect(page.frame_locator("iframe[name=preview]").get_by_text("Hello Ada, spring is here")).to_be_visible()
    page.get_by_role("button", name="Save as a draft").click()
    expect(page.get_by_role("alert")).to_contain_text("condition")
    looks_right(page, "form-with-problem")
    page.get_by_label("Audience").fill(json.dumps(in_city(city)))
    page.get_by_role("button", name="Save as a draft").click()
    expect(page.get_by_role("heading", name=re.compile(re.escape(name)))).to_be_visible()
    path = page.url.split("?")[0]
    campaign_id = int(path.rsplit("/", 1)[1])

    page.get_by_role("link", name="Edit").click()
    page.get_by_label("HTML").fill(
        "<h1 style='color: #2a6'>Hello {{ first_name }}</h1><p>20% off.</p><script>document.title = 'x'</script>"
        "<p><a href='{{ unsubscribe_url }}'>Unsubscribe</a></p>"
    )
    page.get_by_label("Lead's id or address").fill(str(lead_id))
    page.get_by_role("button", name="Show what is typed").click()
    frame = page.frame_locator("iframe[name=preview]")
    expect(frame.get_by_text("Hello Ada, spring is here")).to_be_visible()
    expect(frame.frame_locator("iframe").get_by_role("heading", name="Hello Ada")).to_be_visible()
    looks_right(page, "edit")
    page.get_by_role("button", name="Save", exact=True).click()

    page.get_by_role("link", name="Plan").click()
    expect(page.locator("dl.figures")).to_contain_text(f"{recipients:,}")
    looks_right(page, "plan")

    page.goto(path)
    page.get_by_label("To", exact=True).fill("me@example.com")
    page.get_by_label("With the values of lead").fill(str(lead_id))
    page.get_by_role("button", name="Send the test message").click()
    expect(page.get_by_role("status")).to_contain_text("The provider took the message")
    looks_right(page, "test")

    page.goto(path)
    page.get_by_role("button", name="Queue now").click()
    expect(page.locator("#progress .status")).to_have_text(re.compile("queued|sending"))

    if not IS_FULL:
        world.sends(
            lambda parts: (freeze_audience(parts, campaign_id), send_chunk(parts, campaign_id, 0, holder="first"))
        )
    expect(page.locator("#progress .status")).to_have_text("sending")
    if not IS_FULL:
        expect(page.locator("#progress")).to_contain_text("100 of 300 recipients")
    looks_right(page, "sending")
    page.get_by_label("Reason").first.fill("a typo in the subject")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#progress")).to_contain_text("paused: by an operator: a typo in the subject")
    if not IS_FULL:
        with pytest.raises(CampaignStoppedError):
            world.sends(lambda parts: send_chunk(parts, campaign_id, 1, holder="second"))
    looks_right(page, "paused")

    page.get_by_role("button", name="Resume").click()
    if not IS_FULL:
        world.sends(
            lambda parts: (
                freeze_audience(parts, campaign_id),
                [send_chunk(parts, campaign_id, index, holder=f"again-{index}") for index in range(3)],
                finish_sending(parts, campaign_id),
            )
        )
    expect(page.locator("#progress .status")).to_have_text("sent")
    expect(page.locator("#progress")).to_contain_text(f"{recipients:,} of {recipients:,} recipients")
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    looks_right(page, "campaign")

    page.get_by_role("link", name="Explain a lead").click()
    page.get_by_label("Lead's id or address").fill(address)
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("p.box b")).to_have_text("accepted")
    looks_right(page, "explanation")

    report = page.frame_locator("iframe.report")
    page.get_by_role("link", name="Report").click()
    if IS_FULL:

        def is_there() -> bool:
            page.reload()
            return bool(report.get_by_role("heading", name="Audience and exclusions").count())

        until(is_there)
    else:
        expect(report.get_by_text("There is no report of this campaign yet")).to_be_visible()
    looks_right(page, "report")

    signer = UnsubscribeSigner.from_settings(world.settings)  # of the message, which the simulator does not keep
    page.goto(signer.url(campaign_id, lead_id, sender_id))
    page.get_by_role("button", name="Unsubscribe").click()
    expect(page.get_by_role("heading", name="Done")).to_be_visible()
    with world.engine.connect() as connection:
        kept = select(suppression.c.reason).where(suppression.c.address == address)
        assert connection.execute(kept).scalar_one() == "unsubscribe"
    page.goto("/console/suppressions")
    page.get_by_role("search").get_by_label("Address").fill(address)
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("row", name=re.compile(re.escape(address)))).to_contain_text("unsubscribe")
    looks_right(page, "suppressions")

    page.get_by_role("link", name="Campaigns").click()
    looks_right(page, "list")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_a_page_is_used_by_keyboard_on_a_small_screen(page: Any, world: World) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto("/console/")
    page.get_by_label("API key").fill(world.api.key("reader"))
    page.keyboard.press("Enter")
    playwright.expect(page.get_by_role("heading", name="Campaigns")).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    looks_right(page, "small")
