"""The chat in a real browser: a whole story with the real models, and whatever a quick one shows as well."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.demos.chat_browser import ARGUMENTS, CHROMIUM, COMMAND, SCRIPTED, Tab, free_port, served

OTHER_THINGS = (
    "How do I boil an egg?",
    "Name a colour.",
    "Is it cold on the moon?",
    "Tell me about trains.",
    "How many legs has a spider?",
    "What rhymes with house?",
    "Which fruit is yellow?",
    "Where do penguins live?",
    "What is bread made of?",
    "How do planes fly?",
)
HOSTILE = "<b>bold</b><script>alert(1)</script> ${alert(2)} {{value}} <img src=http://192.0.2.1/x onerror=alert(3)>"


#: Pairs of controls and texts that lie over one another where both can be seen, and what sticks out of the page. The
#: area to drop files on is left out: its label lies in its corner.
OVERLAPS = """() => {
  const seen = [...document.querySelectorAll('button, textarea, input, #panel > *, #talk .message, label > span')]
    .filter(e => e.checkVisibility({visibilityProperty: true, opacityProperty: true}))
    .filter(e => !e.closest('#files'))
    .map(element => {
      const {left, top, right, bottom} = element.getBoundingClientRect();
      const box = {left, top, right, bottom, element};
      for (let e = element.parentElement; e !== document.body; e = e.parentElement)
        if (getComputedStyle(e).overflowY !== 'visible') {
          const part = e.getBoundingClientRect();
          box.top = Math.max(box.top, part.top);
          box.bottom = Math.min(box.bottom, part.bottom);
        }
      return box;
    });
  const faults = [];
  for (const [i, a] of seen.entries()) {
    if (a.right > innerWidth + 1 || a.left < -1) faults.push(['out', a.element.outerHTML.slice(0, 80)]);
    for (const b of seen.slice(i + 1))
      if (!a.element.contains(b.element) && !b.element.contains(a.element)
          && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
          && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2)
        faults.push([a.element.outerHTML.slice(0, 80), b.element.outerHTML.slice(0, 80)]);
  }
  return faults;
}"""


@pytest.fixture(scope="module")
def open_tab() -> Iterator[Callable[..., Tab]]:
    """Opens tabs of Chromium, each in a context of its own; at the end, none of them asked for anything outside."""
    from playwright.sync_api import sync_playwright

    assert Path(CHROMIUM).exists(), "These tests drive Debian's Chromium: apt-get install chromium."
    tabs: list[Tab] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)

        def open_one(url: str, width: int = 1280, height: int = 800, *, wait: bool = True) -> Tab:
            tabs.append(Tab(browser.new_page(viewport={"width": width, "height": height}), url, wait=wait))
            return tabs[-1]

        yield open_one
        browser.close()
    assert not [url for tab in tabs for url in tab.outside()]
    assert not [alarm for tab in tabs for alarm in tab.alarms]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page whose model says what it is told, quickly."""
    with served(*SCRIPTED, tmp_path_factory.mktemp("chat"), free_port(), "0.05") as url:
        yield url


@pytest.mark.models
def test_the_whole_story(open_tab: Callable[..., Tab], tmp_path: Path) -> None:
    chat = [*COMMAND, "--folder", tmp_path / "chat", "--port", free_port(), "--max-tokens", "4"]
    with served(*chat) as url:
        tab = open_tab(url)
        assert tab.say("Hello, I am Ada and my dog is called Biscuit.")
        for turn in range(30):
            assert tab.say(f"{OTHER_THINGS[turn % 10]} And {turn}?")
        tab.page.close()
    with served(*chat) as url:
        tab = open_tab(url)
        assert tab.say("What is my dog called?")
        assert "called Biscuit" in tab.panel()
        assert "score" in tab.panel()
        assert "called Biscuit" in tab.prompt()

        found = tab.memories("dog Biscuit")
        assert any("called Biscuit" in line for line in found)
        tab.forget(*[line for line in found if "Biscuit" in line or "dog" in line])
        tab.start()
        assert tab.say("What is my dog called?")
        tab.tab("This turn")
        assert "Biscuit" not in tab.panel()
        assert "Biscuit" not in tab.prompt()

        tab.start("bob")
        assert tab.memories() == []
        assert tab.say("Who am I?")
        tab.tab("This turn")
        assert "Recalled (0)" in tab.panel()

        ferry = tmp_path / "ferry.md"
        ferry.write_text("# Boats\n\nThe ferry to Hallig leaves at nine.\n", encoding="utf-8")
        tab.add(ferry)
        answer = tab.say("When does the ferry to Hallig leave?")
        tab.tab("This turn")
        assert "ferry.md, Boats · score" in tab.panel()
        assert "ferry" in answer


def test_the_page_comes_before_the_model_and_says_so(open_tab: Callable[..., Tab], tmp_path: Path) -> None:
    with served(*SCRIPTED, tmp_path, free_port(), "0", "6") as url:
        tab = open_tab(url, wait=False)
        tab.page.locator("#notice").get_by_text("The model is loading").wait_for()
        tab.ask("say I was loaded")
        tab.page.locator("#talk").get_by_text("The model is loading").wait_for()
        tab.finish()
        assert tab.answers() == ["I was loaded"]
        assert tab.page.locator("#notice").is_hidden()


def test_hostile_text_is_shown_as_text(open_tab: Callable[..., Tab], scripted: str) -> None:
    tab = open_tab(scripted)
    tab.start("mallory <b>")
    assert tab.say(f"say {HOSTILE}") == HOSTILE
    tab.start()
    tab.say(f"what of {HOSTILE}")
    assert HOSTILE in tab.panel()
    assert HOSTILE in tab.prompt()
    assert any(HOSTILE in line for line in tab.memories())
    long = f"say {'x' * 100_000}"
    assert "97004 characters left out" in tab.say(long)
    assert tab.page.locator("#talk [data-testid=user]").last.inner_text().strip() == long
    assert "The model reads 3000 of 100004 characters." in tab.panel()
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_two_tabs_and_two_users_do_not_mix(open_tab: Callable[..., Tab], scripted: str) -> None:
    ada, bob = open_tab(scripted), open_tab(scripted)
    ada.start("ada")
    bob.start("bob")
    ada.ask("say " + "ada's sloop " * 20)
    assert bob.say("say bob's barge") == "bob's barge"
    bob.page.reload()
    ada.finish()
    assert ada.answers() == [("ada's sloop " * 20).strip()]
    bob.page.locator("#talk").get_by_text("say bob's barge").wait_for()
    assert bob.answers() == ["bob's barge"]
    assert not any("sloop" in line for line in bob.memories())
    assert not any("barge" in line for line in ada.memories())


def test_a_new_conversation_is_not_written_into_by_the_old_one(open_tab: Callable[..., Tab], scripted: str) -> None:
    tab = open_tab(scripted)
    tab.start("carl")
    tab.ask("say " + "word " * 60)
    tab.start()
    assert tab.say("say alone") == "alone"
    tab.page.wait_for_timeout(500)
    assert tab.answers() == ["alone"]


def test_memories_are_corrected_and_exported(open_tab: Callable[..., Tab], scripted: str) -> None:
    tab = open_tab(scripted)
    tab.start("dora")
    tab.say("say the key lies under the mat")
    (line,) = tab.memories()
    tab.choose(line)
    box = tab.page.locator("#correction textarea")
    assert box.input_value() == "User: say the key lies under the mat\nAssistant: the key lies under the mat"
    box.fill("The key lies in the shed.")
    with tab.working():
        tab.page.get_by_role("button", name="Correct").click()
    assert [line.split(" · ")[-1] for line in tab.memories()] == ["The key lies in the shed."]
    with tab.page.expect_download() as download:
        tab.page.get_by_role("button", name="Export all").click()
    assert "in the shed" in download.value.path().read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overlaps_and_nothing_is_cut(open_tab: Callable[..., Tab], scripted: str, width: int) -> None:
    tab = open_tab(scripted, width, 844)
    tab.start(f"eve {width}")
    tab.say("say " + "a word or two " * 30 + "x" * 200)
    tab.start()
    tab.say("a word or two, and " + "y" * 200)
    for name in ("This turn", "Memories", "Documents"):
        tab.tab(name)
        tab.page.wait_for_timeout(300)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.page.evaluate(OVERLAPS) == [], name
