"""The chat's page: Gradio, with nothing from outside, and everything that somebody said shown as text."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr

from quadrieve.errors import InputError

if TYPE_CHECKING:
    from .chat import Companion, Reply

THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # others load fonts from outside
CSS = """
footer, #talk button[aria-label=Clear] {display: none !important}
.toast-wrap * {pointer-events: none !important}
.gradio-container {max-width: 1240px !important}
.said {white-space: pre-wrap; overflow-wrap: anywhere; max-height: 30em; overflow: auto; margin: 2px 0 10px}
#fresh {align-self: center}
.about {opacity: .75; font-size: .85em}
.listed .wrap {max-height: 20em; overflow: auto}
.listed label, .listed label span {width: 100%; overflow-wrap: anywhere; white-space: normal}
"""
# A tab keeps who is talking and in which conversation, and keeps it over a reload and a restart.
OPEN = "user => [sessionStorage.user || user, sessionStorage.thread ||= crypto.randomUUID()]"
SWITCH = "user => [sessionStorage.user = user.trim() || 'me', sessionStorage.thread = crypto.randomUUID()]"
# A button that downloads does so when it is clicked, and the file is made after a click.
DOWNLOAD = "() => setTimeout(() => document.querySelector('#exported').click(), 200)"
IDLE: dict[str, Any] = {"submit_btn": True, "stop_btn": False}
BUSY: dict[str, Any] = {"submit_btn": False, "stop_btn": True}
LOADING = "The model is loading; you can write already."
NOTHING = "<p class=about>What the model is shown beside your words appears here.</p>"


class ChatPage:
    """The page, as `blocks`; it can be seen while what it shows is still loading."""

    def __init__(self, loading: Future[Companion], exports: Path) -> None:
        self._loading = loading
        self._exports = exports
        with gr.Blocks(title="quadrieve chat", analytics_enabled=False) as self.blocks:
            self._lay_out()
            self._connect()

    def _lay_out(self) -> None:
        self.notice = gr.Markdown(LOADING, elem_id="notice")
        with gr.Row():
            self.user = gr.Textbox("me", label="You are", elem_id="user", submit_btn="Switch", scale=2, min_width=200)
            self.fresh = gr.Button("New conversation", scale=1, min_width=140, elem_id="fresh")
        self.thread = gr.Textbox(visible="hidden")
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                self.talk = gr.Chatbot(
                    label="Conversation", height=460, render_markdown=False, buttons=[], layout="bubble", elem_id="talk"
                )
                self.message = gr.Textbox(label="Message", placeholder="Say something …", elem_id="message", **IDLE)
            with gr.Column(scale=2, min_width=320), gr.Tabs():
                with gr.Tab("This turn"):
                    self.panel = gr.HTML(NOTHING, elem_id="panel")
                with gr.Tab("Memories") as self.memories_tab:
                    self.query = gr.Textbox("", label="Search memories", submit_btn="Search", elem_id="query")
                    self.memories = gr.CheckboxGroup(label="Memories", elem_id="memories", elem_classes="listed")
                    with gr.Row():
                        self.forget = gr.Button("Forget", variant="stop", min_width=140)
                        self.export = gr.Button("Export all", min_width=140)
                    self.exported = gr.DownloadButton(visible="hidden", elem_id="exported")
                    self.text = gr.Textbox("", label="Correct the chosen one", lines=3, elem_id="correction")
                    self.correct = gr.Button("Correct")
                with gr.Tab("Documents") as self.documents_tab:
                    self.files = gr.File(label="Text, Markdown, HTML, PDF", file_count="multiple", elem_id="files")
                    self.folder = gr.UploadButton("Add a folder", file_count="directory")
                    self.documents = gr.CheckboxGroup(label="Documents", elem_id="documents", elem_classes="listed")
                    self.remove = gr.Button("Remove the chosen", variant="stop")

    def _connect(self) -> None:
        tab, turn = [self.user, self.thread], [self.talk, self.panel, self.notice]
        asked, listed = [self.user, self.query], [self.memories, self.text, self.documents]
        opened = self.blocks.load(None, self.user, tab, js=OPEN)
        opened.then(self._open, tab, turn, show_progress="hidden")
        asking, answering = [self.message, *tab], [self.message, *turn]
        said = self.message.submit(self._answer, asking, answering, concurrency_limit=4, show_progress="hidden")
        switches = [self.user.submit, self.fresh.click]
        gr.on([self.message.stop, *switches], lambda: gr.Textbox(**IDLE), None, self.message, cancels=said)
        switched = gr.on(switches, None, self.user, tab, js=SWITCH)
        switched.then(self._open, tab, turn).then(self._list, asked, listed)
        gr.on([self.memories_tab.select, self.documents_tab.select, self.query.submit], self._list, asked, listed)
        self.memories.input(self._choose, [self.user, self.memories], self.text)
        for button, change in ((self.forget, self._forget), (self.correct, self._correct)):
            changed = button.click(change, [self.user, self.memories, self.text])
            changed.then(self._list, asked, listed).then(self._open, tab, turn)
        self.export.click(self._export, self.user, self.exported).then(None, js=DOWNLOAD)
        for given in (self.files, self.folder):
            given.upload(self._add, [self.user, given], given).then(self._list, asked, listed)
        self.remove.click(self._remove, [self.user, self.documents]).then(self._list, asked, listed)

    def _open(self, user: str, thread: str) -> tuple[Any, ...]:
        talk = [_as_text(message) for message in self._loading.result().conversation(user, thread)]
        return talk, NOTHING, gr.Markdown(visible=False)

    def _answer(self, message: str, user: str, thread: str) -> Iterator[dict[Any, Any]]:
        def talk(answer: str) -> list[dict[str, str]]:
            new = [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]
            return [_as_text(one) for one in [*past, *new]]

        if not message.strip():
            return (yield {self.message: ""})
        past = self._loading.result().conversation(user, thread) if self._loading.done() else []
        yield {self.message: gr.Textbox("", **BUSY), self.talk: talk("…" if self._loading.done() else LOADING)}
        past = self._loading.result().conversation(user, thread)
        try:
            for reply in self._loading.result().reply(user, thread, message):
                yield {self.talk: talk(reply.text or "…"), self.panel: show_panel(reply)}
            yield {self.message: gr.Textbox(**IDLE)}
        except Exception as error:  # an API's, for instance: the page goes on
            yield {self.message: gr.Textbox(message, **IDLE), self.talk: talk(f"No answer: {error}")}

    def _list(self, user: str, query: str) -> tuple[Any, ...]:
        memories = [(_line(item), item.key) for item in self._loading.result().memories(user, query)]
        names = self._loading.result().documents.names(user)
        return gr.CheckboxGroup(memories, value=[]), "", gr.CheckboxGroup(names, value=[])

    def _choose(self, user: str, keys: Sequence[str]) -> str:
        return str(self._loading.result().memory(user, keys[0])["text"]) if len(keys) == 1 else ""

    def _forget(self, user: str, keys: Sequence[str], _text: str) -> None:
        self._loading.result().forget(user, keys)
        gr.Info(f"{len(keys)} forgotten, and erased from the disk.", duration=3)

    def _correct(self, user: str, keys: Sequence[str], text: str) -> None:
        if len(keys) == 1 and text.strip():
            self._loading.result().correct(user, keys[0], text)
        else:
            gr.Warning("Choose the one memory to correct, and write what it should say.")

    def _export(self, user: str) -> str:
        path = Path(tempfile.mkdtemp(dir=self._exports)) / "memories.jsonl"
        self._loading.result().export(user, path)
        return str(path)

    def _add(self, user: str, given: Sequence[str]) -> None:
        done = self._loading.result().documents.add(user, [Path(path) for path in given])
        for name, why in done.failed.items():
            gr.Warning(escape(f"{name}: {why}"))

    def _remove(self, user: str, names: Sequence[str]) -> None:
        self._loading.result().documents.remove(user, names)


def serve(load: Callable[[], Companion], host: str, port: int, *, browser: bool = False) -> None:
    """Show the page at once, load what it shows, and let go of it when the process is told to end.

    Raises:
        InputError: If the port is taken.
        QuadrieveError: What loading raised.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    loading: Future[Companion] = Future()
    options: dict[str, Any] = {"prevent_thread_lock": True, "quiet": True, "show_error": True, "max_file_size": "50mb"}
    options |= {"share": False, "ssr_mode": False, "footer_links": [], "theme": THEME, "css": CSS}
    with tempfile.TemporaryDirectory() as passing:
        os.environ["GRADIO_TEMP_DIR"] = passing  # what is uploaded or exported does not outlive the page
        page = ChatPage(loading, Path(passing)).blocks
        try:
            page.launch(server_name=host, server_port=port, inbrowser=browser, **options)
        except OSError as error:
            raise InputError(f"Port {port} is taken, or not yours to take; name another with --port.") from error
        try:
            print(f"quadrieve chat is at {page.local_url} (Ctrl-C ends it)", flush=True)
            loading.set_result(load())
            signal.pause()
        except KeyboardInterrupt:
            print()
        finally:
            page.close(verbose=False)
            if not loading.cancel():
                loading.result().close()


def show_panel(reply: Reply) -> str:
    """What a turn was given, as HTML in which all that somebody said is text."""
    memories = [_quote(one["text"], f"{one['at'][:16]} · {one['source']} · {_why(one)}") for one in reply.recalled]
    passages = [_quote(one["text"], f"{one['source']} · {_why(one)}") for one in reply.passages]
    tools = [_quote(line, "") for line in reply.tools]
    parts = [f"<p><b>{escape(reply.notice)}</b></p>" if reply.notice else ""]
    for title, quotes in (("Recalled", memories), ("Passages", passages), ("Tools", tools)):
        parts += [f"<h4>{title} ({len(quotes)})</h4>", *quotes]
    parts += [f"<details><summary>Exact prompt</summary><div class=said>{escape(reply.prompt)}</div></details>"]
    return "".join(parts)


def _as_text(message: Mapping[str, str]) -> dict[str, str]:
    """Even without Markdown, Gradio takes a message for HTML."""
    return {"role": message["role"], "content": escape(message["content"])}


def _quote(text: str, about: str) -> str:
    return f"<div class=about>{escape(about)}</div><div class=said>{escape(text)}</div>"


def _why(found: Mapping[str, Any]) -> str:
    names = {"dense": "meaning", "lexical": "words"}
    ranks = ", ".join(f"{names.get(key, key)}: {value}" for key, value in found["why"].items())
    return f"score {found['score']:.2f} · rank by {ranks}" if found["score"] is not None else ranks


def _line(item: Any) -> str:
    text = " / ".join(str(item.value["text"]).splitlines())
    score = "" if item.score is None else f" · {item.score:.2f}"
    return f"{item.value['at'][:16]}{score} · {text if len(text) <= 300 else text[:299] + '…'}"
