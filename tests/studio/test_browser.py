"""The chat page in a real browser: Debian's Chromium, without a network beyond this machine."""

from __future__ import annotations

import base64
import shutil
import threading

import pytest
from playwright import sync_api

from hone.chat.message import Image
from tests.serving.servers import until
from tests.serving.test_known_holes import png
from tests.studio.conftest import KEY

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PICTURE = "https://evil.example/a.png"
THOUGHT = f"<think>\nA short hidden thought.\n</think>\n\nIt is **Paris**. ![]({PICTURE})"

SIZES = {"high": (20, 50), "wide": (90, 40)}
PASTE = """(text) => {
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], "p.png", {type: "image/png"}));
    document.querySelector("footer textarea").dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
}"""
CALL = 'I look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        folder = str(tmp_path_factory.mktemp("browser"))
        options = {"executable_path": CHROMIUM, "headless": True, "args": FLAGS.split()}
        context = playwright.chromium.launch_persistent_context(folder, **options)
        yield context
        context.close()


def say(page, text):
    page.locator("footer textarea").fill(text)
    page.keyboard.press("Enter")


def test_a_talk(browser, paged, speaker, site):
    page, asked, faults, failed = browser.pages[0], [], [], {}
    page.set_default_timeout(20_000)
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.on("requestfailed", lambda request: failed.update({request.url: request.failure}))
    page.goto(paged.url)
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    expect = sync_api.expect
    expect.set_options(timeout=20_000)

    # Markdown, and a thought that is folded until it is opened. The picture of the answer is not fetched.
    speaker.script = THOUGHT
    page.locator("footer textarea").wait_for()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Seed").fill("7")
    say(page, "Capital of France?")
    expect(page.locator("strong", has_text="Paris")).to_be_visible()
    expect(page.get_by_text("A short hidden thought.")).to_be_hidden()
    page.get_by_text("Thought", exact=True).click()
    expect(page.get_by_text("A short hidden thought.")).to_be_visible()
    request = speaker.asked[-1]
    assert [one.text for one in request.conversation.messages] == ["Be brief.", "Capital of France?"]
    assert (request.settings.do_sample, request.seed) == (False, 7)

    # Another answer in the place of the last.
    speaker.script = "It is Lyon."
    page.get_by_label("Another answer").click()
    expect(page.get_by_text("It is Lyon.")).to_be_visible()
    expect(page.locator("strong")).to_have_count(0)
    assert speaker.asked[-1].conversation == request.conversation

    # A call, folded, and its result.
    speaker.script = CALL
    say(page, "Weather?")
    expect(page.get_by_text('"city": "Paris"')).to_be_hidden()
    page.get_by_text("Calls get_weather", exact=True).click()
    expect(page.get_by_text('"city": "Paris"')).to_be_visible()

    # An answer that is seen while it grows, and stopped.
    gate = threading.Semaphore(0)
    speaker.script, speaker.pause, left = "abcdefghij" * 9, lambda: gate.acquire(timeout=20), speaker.num_left
    try:
        say(page, "sunny")
        gate.release(15)
        expect(page.get_by_text("abcdefghijabc")).to_be_visible()
        page.get_by_label("Stop").click()
        expect(page.get_by_text("stopped")).to_be_visible()
        gate.release(1)
        until(lambda: speaker.num_left == left + 1)
    finally:
        speaker.pause = lambda: None
        gate.release(1000)
    messages = speaker.asked[-1].conversation.messages
    assert [one.role for one in messages] == ["system", "user", "assistant", "user", "assistant", "tool"]
    assert messages[-1].parts[0].name == "get_weather"

    # A limit is told, and what was asked stands in the box again.
    page.get_by_label("Tools (JSON)").fill("[{")
    say(page, "Go on")
    expect(page.get_by_text("the tools are no JSON")).to_be_visible()
    expect(page.locator("footer textarea")).to_have_value("Go on")

    # Pictures, as they come: chosen, or pasted. What is none is told; one that is taken out is not asked about.
    page.get_by_label("Tools (JSON)").fill("")
    page.locator("footer textarea").fill("What is this?")
    chosen = [{"name": f"{name}.png", "mimeType": "image/png", "buffer": png(*size)} for name, size in SIZES.items()]
    page.locator("input[type=file]").set_input_files([*chosen, {"name": "no.png", "mimeType": "image/png", "buffer": b"no"}])
    expect(page.get_by_text("no.png: a picture is wanted")).to_be_visible()
    expect(page.locator("footer img")).to_have_count(2)
    page.get_by_label("Take it out").first.click()
    expect(page.locator("footer img")).to_have_count(1)
    page.evaluate(PASTE, base64.b64encode(png(30, 30)).decode())
    expect(page.locator("footer img")).to_have_count(2)
    speaker.script = "Two pictures."
    page.locator("footer textarea").press("Enter")
    expect(page.get_by_text("Two pictures.")).to_be_visible()
    expect(page.locator("footer img")).to_have_count(0)
    expect(page.locator(".talk img.small")).to_have_count(2)
    seen = speaker.asked[-1].conversation.messages[-1]
    assert seen.media == (Image(png(*SIZES["wide"])), Image(png(30, 30))) and seen.text == "What is this?"

    # Nothing is kept for a new chat, for another visitor, or after a reload; nothing was fetched elsewhere.
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_text("It is Lyon.")).to_have_count(0)
    other = browser.new_page()
    other.goto(f"{paged.url}/chat/")
    expect(other.locator("footer textarea")).to_be_visible()
    expect(other.get_by_label("System prompt")).to_have_value("")
    expect(other.get_by_label("Add a picture")).to_be_visible()
    takes, site.desk.media.takes = site.desk.media.takes, frozenset()
    other.reload()
    expect(other.locator("footer textarea")).to_be_visible()
    expect(other.get_by_label("Add a picture")).to_have_count(0)
    site.desk.media.takes = takes
    assert not faults and {url for url in asked if not url.startswith((paged.url, "data:", f"blob:{paged.url}"))} <= {PICTURE}
    assert failed.get(PICTURE, "csp") == "csp", "the page may not fetch it"
