"""The server backend, against a small completions server that the test starts around the packaged model."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from quadrieve.errors import InputError, ModelError
from quadrieve_train import LanguageModel, Prompt, ServerLM


def completions_server(lm, *, models=("smollm2",), echoes=True):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer({"data": [{"id": name} for name in models]})

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if asked["model"] not in models:
                return self.answer({"error": "no such model"}, 404)
            if asked.get("echo"):
                return self.answer({"choices": [self.echo(i, text) for i, text in enumerate(asked["prompt"])]})
            texts = lm.sample(
                asked["prompt"], asked["n"], asked["seed"], max_new_tokens=asked["max_tokens"], stop=asked["stop"] or ()
            )
            return self.answer({"choices": [{"index": i, "text": " " + text} for i, text in enumerate(texts)]})

        def echo(self, index, text):
            encoding = lm.tokenizer(text, return_offsets_mapping=True)
            ids = torch.tensor([encoding["input_ids"]])
            with torch.no_grad():
                logits = lm.model(ids).logits[0].log_softmax(dim=-1)
            found = [None] + [logits[i, token].item() for i, token in enumerate(ids[0, 1:].tolist())]
            offsets = [start for start, _ in encoding["offset_mapping"]]
            logprobs = {"token_logprobs": found, "text_offset": offsets} if echoes else None
            return {"index": index, "text": text, "logprobs": logprobs}

        def answer(self, content, status=200):
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def serve(lm):
    servers = []

    def start(**options):
        server = completions_server(lm, **options)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.models
def test_a_server_scores_and_samples_as_the_model_itself(lm, serve):
    server = ServerLM(serve())
    assert isinstance(server, LanguageModel)
    requests = [
        (Prompt("Knowledge:\n", "Bees make honey.", "\n\nQ: Who makes honey? A:"), [" Bees", " cows and goats"]),
        ("The sky is", [" blue", " made of stone"]),
    ]
    for found, wanted in zip(server.score_many(requests), lm.score_many(requests), strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)
    assert server.sample("An animal:", 2, 1, max_new_tokens=4) == lm.sample("An animal:", 2, 1, max_new_tokens=4)


def test_a_long_candidate_is_cut_and_the_question_never(serve):
    server = ServerLM(serve(), max_chars=40)
    assert server._fit(Prompt("K: ", "abc" * 50, " Q: Who? A:")).endswith("abc Q: Who? A:")
    assert len(server._fit(Prompt("K: ", "abc" * 50, " Q: Who? A:"))) == 40
    with pytest.raises(InputError, match="max_chars is 40"):
        server.score(Prompt("", "abc", "Q" * 50), [" yes"])


def test_servers_that_cannot_be_used_are_refused(serve):
    with pytest.raises(ModelError, match="No OpenAI-compatible server"):
        ServerLM("http://127.0.0.1:9")
    with pytest.raises(ModelError, match="serves a, b; name one"):
        ServerLM(serve(models=("a", "b")))
    with pytest.raises(ModelError, match="answered 404"):
        ServerLM(serve(), model="other").score("Q", [" A"])
    with pytest.raises(ModelError, match="no log-probabilities of the prompt"):
        ServerLM(serve(echoes=False)).score("Q", [" A"])
