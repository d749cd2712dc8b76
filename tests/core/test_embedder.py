"""The embedder: the same vectors as sentence-transformers, one copy of the weights, clear errors."""

import json
import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.texts import HARD, mixed_texts

from quadrieve import Embedder, EmbedderLike, InputError, ModelError, Role, ViewLike, tasks
from quadrieve import checkpoint as checkpoints

PROMPTS = {f"{t.name}_{s}": p for t in tasks() for s, p in (("query", t.query_prefix), ("key", t.key_prefix))}


@pytest.fixture(scope="module")
def exact() -> Embedder:
    return Embedder.load("minilm", dtype="float32")


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged weights as a checkpoint with the paper's prefixes and CLS pooling."""
    folder = tmp_path_factory.mktemp("models") / "prompted"
    plain = checkpoints.find("minilm")
    return checkpoints.write(checkpoints.replace(plain, prompts=PROMPTS, pooling="cls"), folder)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@pytest.mark.models
@pytest.mark.filterwarnings("ignore:.*were cut")
class TestEqualsSentenceTransformers:
    def test_on_200_mixed_texts(self, exact: Embedder) -> None:
        from sentence_transformers import SentenceTransformer

        texts = mixed_texts(200)
        peer = SentenceTransformer(str(exact.checkpoint.folder), device="cpu")
        ours = exact.view("qa").embed_keys(texts)
        assert ours.shape == (200, 384)
        assert ours.dtype == np.float32
        assert cosines(ours, peer.encode(texts)).min() >= 0.9999

    @pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
    def test_of_a_saved_folder_with_prompts(
        self, exact: Embedder, tmp_path: Path, pooling: checkpoints.Pooling
    ) -> None:
        from sentence_transformers import SentenceTransformer

        written = checkpoints.replace(exact.checkpoint, prompts=PROMPTS, pooling=pooling)
        saved = tmp_path / "saved"
        Embedder(written, dtype="float32").save(saved)
        ours, peer = Embedder.load(saved, dtype="float32"), SentenceTransformer(str(saved), device="cpu")
        texts = HARD + mixed_texts(60)[len(HARD) :]
        queries = ours.view("tool").embed_queries(texts)
        assert cosines(queries, peer.encode(texts, prompt_name="tool_query")).min() >= 0.9999
        keys = ours.view("icl").embed_keys(texts)
        assert cosines(keys, peer.encode(texts, prompt_name="icl_key")).min() >= 0.9999

    def test_after_it_saved_the_folder_itself(self, exact: Embedder, tmp_path: Path) -> None:
        from sentence_transformers import SentenceTransformer

        SentenceTransformer(str(exact.checkpoint.folder), device="cpu").save(str(tmp_path / "theirs"))
        theirs = Embedder.load(tmp_path / "theirs", dtype="float32")
        assert theirs.view("qa").fingerprint == exact.view("qa").fingerprint
        texts = mixed_texts(40)
        assert cosines(theirs.view("qa").embed_keys(texts), exact.view("qa").embed_keys(texts)).min() >= 0.9999


@pytest.mark.models
def test_bf16_agrees_with_fp32(embedder: Embedder, exact: Embedder) -> None:
    texts = mixed_texts(100)[len(HARD) :]
    assert cosines(embedder.view("qa").embed_keys(texts), exact.view("qa").embed_keys(texts)).min() >= 0.999


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 300))
def test_order_and_batches_do_not_matter(order: list[int], batch_tokens: int) -> None:
    embedder = _exact()
    texts = mixed_texts(40)[-12:]
    expected = embedder.view("qa").embed_keys(texts)
    found = embedder.view("qa").embed_keys([texts[i] for i in order], batch_tokens=batch_tokens)
    np.testing.assert_allclose(found, expected[list(order)], atol=1e-5)


_EXACT: list[Embedder] = []


def _exact() -> Embedder:
    if not _EXACT:
        _EXACT.append(Embedder.load("minilm", dtype="float32"))
    return _EXACT[0]


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_string_of_whole_characters_has_a_unit_vector(text: str) -> None:
    vector = _exact().view("chat").embed_queries([text])[0]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


class TestPrefixes:
    def test_come_with_the_weights(self, prompted: Path, embedder: Embedder) -> None:
        view = Embedder.load(prompted).view(Role.TOOL)
        assert view.explain("find a flight") == PROMPTS["tool_query"] + "find a flight"
        assert view.explain("find_flight: …", side="key") == PROMPTS["tool_key"] + "find_flight: …"
        assert embedder.view(Role.TOOL).explain("find a flight") == "find a flight"

    def test_change_the_fingerprint_as_everything_does_that_changes_vectors(self, prompted: Path) -> None:
        plain, with_prompts = Embedder.load("minilm"), Embedder.load(prompted)
        views = [
            plain.view("qa"),
            Embedder.load("minilm", max_length=128).view("qa"),
            *(with_prompts.view(name) for name in ("qa", "tool")),
        ]
        assert len({view.fingerprint for view in views}) == len(views)
        assert plain.view("qa").fingerprint == plain.view("tool").fingerprint  # no prefixes: the same vectors

    def test_make_other_vectors(self, prompted: Path) -> None:
        view = Embedder.load(prompted).view("qa")
        assert not np.allclose(view.embed_queries(["tide"]), view.embed_keys(["tide"]), atol=1e-2)

    def test_of_known_public_checkpoints_are_in_the_registry(self) -> None:
        known = checkpoints._known_checkpoint("BAAI/llm-embedder")
        assert known is not None
        assert known.pooling == "cls"
        assert known.prompts == {**known.prompts, **PROMPTS}


class TestLongTexts:
    LONG = " ".join(["harbour"] * 600)

    def test_are_cut_with_a_warning(self, embedder: Embedder) -> None:
        with pytest.warns(UserWarning, match="1 of 2 texts were longer than 256 tokens and were cut"):
            embedder.view("qa").embed_keys([self.LONG, "short"])

    def test_are_refused_if_asked(self, embedder: Embedder) -> None:
        with pytest.raises(InputError, match="Text 1 has 602 tokens, minilm reads 256"):
            embedder.view("qa").embed_keys(["short", self.LONG], on_long="error")

    def test_are_encoded_whole_if_asked(self, embedder: Embedder) -> None:
        text = f"{'The ferry leaves at nine. ' * 60} {'Bees make honey from nectar. ' * 60}"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            split, short = embedder.view("qa").embed_keys([text, "short"], on_long="split")
        end = embedder.view("qa").embed_keys(["Bees make honey from nectar."])[0]
        with pytest.warns(UserWarning, match="were cut"):
            cut = embedder.view("qa").embed_keys([text])[0]
        assert split @ end > cut @ end + 0.1
        np.testing.assert_allclose(short, embedder.view("qa").embed_keys(["short"])[0], atol=1e-2)
        assert np.linalg.norm(split) == pytest.approx(1, abs=1e-5)


class TestRefusals:
    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ("one string", "got one string; put it in a list"),
            ([], "got an empty list"),
            (["fine", 3], "Text 1 is int, expected a string"),
            ([None], "Text 0 is NoneType"),
            (["half \ud83d"], r"Text 0 has half a surrogate pair .* at character 5"),
        ],
    )
    def test_of_what_is_no_text(self, embedder: Embedder, texts: list[str], message: str) -> None:
        with pytest.raises(InputError, match=message):
            embedder.view("qa").embed_queries(texts)

    def test_of_an_unknown_model_without_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(
            ModelError, match="No model 'acme/nothing': it is no folder here, and the hub did not give it"
        ):
            Embedder.load("acme/nothing")

    def test_of_a_folder_that_is_not_there_or_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"expected a folder with config\.json"):
            Embedder.load(tmp_path / "nothing")
        with pytest.raises(ModelError, match=r"expected a config\.json"):
            Embedder.load(tmp_path)

    def test_of_pickled_weights(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
        (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
        with pytest.raises(ModelError, match=r"only pytorch_model\.bin, which may run code"):
            Embedder.load(tmp_path)

    def test_of_damaged_packaged_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checkpoints, "PACKAGED_SHA256", "0" * 64)
        with pytest.raises(ModelError, match="damaged or was replaced"):
            Embedder.load("minilm")

    def test_of_no_model_at_all_names_three_ways(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checkpoints, "PACKAGED_MODULE", "no_such_package_is_installed")
        monkeypatch.delenv(checkpoints.MODEL_VARIABLE, raising=False)
        with pytest.raises(ModelError, match=r"Embedder\.load\(.*\$QUADRIEVE_MODEL.*requirements-models\.txt"):
            Embedder.load()

    def test_of_float16_on_a_cpu(self) -> None:
        with pytest.raises(InputError, match="hundred times slower"):
            Embedder.load("minilm", device="cpu", dtype="float16")

    def test_of_unknown_options(self, embedder: Embedder) -> None:
        with pytest.raises(InputError, match="Unknown dtype"):
            Embedder.load("minilm", dtype="int3")
        with pytest.raises(InputError, match="Unknown backend"):
            Embedder.load("minilm", backend="abacus")
        with pytest.raises(InputError, match="reads 8 to 256 tokens"):
            Embedder.load("minilm", max_length=1000)
        with pytest.raises(InputError, match="Unknown on_long"):
            embedder.view("qa").embed_keys(["a"], on_long="shrug")  # type: ignore[arg-type]

    def test_of_a_folder_that_is_not_empty(self, embedder: Embedder, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("keep")
        with pytest.raises(InputError, match="not empty"):
            embedder.save(tmp_path)
        assert (tmp_path / "mine.txt").read_text() == "keep"


def test_the_environment_names_the_default_model(prompted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUADRIEVE_MODEL", str(prompted))
    assert Embedder.load().name == "prompted"


def test_embedder_and_view_are_protocols_that_others_can_meet(embedder: Embedder) -> None:
    assert isinstance(embedder, EmbedderLike)
    assert isinstance(embedder.view("qa"), ViewLike)


def test_pickling_keeps_the_place_and_not_the_weights(embedder: Embedder) -> None:
    expected = embedder.view("qa").embed_queries(["tide tables"])
    data = pickle.dumps(embedder.view("qa"))
    assert len(data) < 10_000
    np.testing.assert_allclose(pickle.loads(data).embed_queries(["tide tables"]), expected, atol=1e-3)


@pytest.mark.models
def test_threads_share_one_embedder(exact: Embedder) -> None:
    texts = mixed_texts(64)[-24:]
    expected = exact.view("qa").embed_keys(texts)
    fresh = Embedder.load("minilm", dtype="float32")
    found: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        found[i] = fresh.view(list(Role)[i % 4]).embed_keys(texts)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for vectors in found.values():
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


_PEAK = r"""
import re, sys
from quadrieve import Embedder
embedder = Embedder.load("minilm", dtype="float32")
for task in sys.argv[1:]:
    embedder.view(task).embed_queries(["How high is the tide?"] * 8)
# ru_maxrss would begin at what the process has that starts this one.
print(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.models
def test_four_views_take_no_more_memory_than_one() -> None:
    def peak(*views: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", _PEAK, *views], text=True))

    assert peak("qa", "chat", "icl", "tool") <= 1.05 * peak("qa")


_IMPORT = """
import sys, time
start = time.perf_counter()
import quadrieve
seconds = time.perf_counter() - start
print(seconds, "torch" in sys.modules, "chromadb" in sys.modules)
"""


def test_importing_is_quick_and_loads_neither_torch_nor_chromadb() -> None:
    runs = [subprocess.check_output([sys.executable, "-c", _IMPORT], text=True).split() for _ in range(3)]
    assert min(float(seconds) for seconds, *_ in runs) < 0.3
    assert all(loaded == ["False", "False"] for _, *loaded in runs)


def test_similarity_is_the_cosine(embedder: Embedder) -> None:
    a, b = np.array([[3.0, 0.0], [0.0, 2.0]]), np.array([1.0, 1.0])
    np.testing.assert_allclose(embedder.similarity(a, b), [[2**-0.5], [2**-0.5]], rtol=1e-6)


def test_two_copies_of_the_weights_have_one_fingerprint(embedder: Embedder, tmp_path: Path) -> None:
    embedder.save(tmp_path / "copy")
    assert Embedder.load(tmp_path / "copy").view("tool").fingerprint == embedder.view("tool").fingerprint
    assert not any(path.suffix == ".bin" for path in (tmp_path / "copy").rglob("*"))
    assert os.access(tmp_path / "copy" / "modules.json", os.R_OK)
