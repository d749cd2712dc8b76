# ruff: noqa: RUF001  # the scripts are the point
"""Search by words: BM25 as it is written down, exact names, any text as a query, any script."""

import itertools
import math
import random
import re
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.conftest import HashingEmbedder, HashingView
from tests.core.texts import HARD

from quadrieve import Embedder, Fusion, KnowledgeBase, Memory, Role

WORDS = "tide lamp gull bread ledger trail council seal harbour kettle frost window parcel".split()


@pytest.fixture
def kb(hashing: HashingEmbedder) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.open(None, embedder=hashing) as store:
        yield store


def found(kb: KnowledgeBase, query: str, k: int = 10, **options: object) -> list[str]:
    return [hit.id for hit in kb.search(query, k=k, mode="lexical", **options)]  # type: ignore[arg-type]


def bm25(query: str, texts: dict[str, str]) -> dict[str, float]:
    """Robertson and Zaragoza 2009, k1 1.2 and b .75, where everyday words count next to nothing, never less."""
    words = {id: re.findall(r"\w+", text.lower()) for id, text in texts.items()}
    lengths = {id: len(found) for id, found in words.items()}
    average = sum(lengths.values()) / len(lengths)
    scores: dict[str, float] = {}
    for word in set(query.lower().split()):
        holders = {id: counted for id, found in words.items() if (counted := found.count(word))}
        idf = max(1e-6, math.log((len(texts) - len(holders) + 0.5) / (len(holders) + 0.5))) if holders else 0.0
        for id, count in holders.items():
            saturated = count * 2.2 / (count + 1.2 * (0.25 + 0.75 * lengths[id] / average))
            scores[id] = scores.get(id, 0.0) + idf * saturated
    return scores


class TestOrder:
    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join), min_size=1, max_size=20),
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join),
    )
    def test_is_that_of_bm25(self, texts: list[str], query: str) -> None:
        by_id = {f"d{i}": text for i, text in enumerate(texts)}
        with KnowledgeBase.open(None, embedder=HashingEmbedder()) as kb:
            kb.add(by_id.values(), ids=list(by_id))
            expected = bm25(query, by_id)
            ranked = found(kb, query, k=len(texts))
            assert set(ranked) == set(expected)
            scores = [expected[id] for id in ranked]
            assert all(first >= second - 1e-9 for first, second in itertools.pairwise(scores))

    def test_is_that_of_bm25_after_updates_and_deletions(self, kb: KnowledgeBase) -> None:
        rng = random.Random(0)
        state: dict[str, str] = {}
        for _ in range(30):
            some = {f"d{rng.randrange(40)}": " ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(5)}
            kb.add(some.values(), ids=list(some))
            state |= some
            gone = rng.sample(sorted(state), 1)
            kb.delete(gone)
            state.pop(gone[0])
            query = " ".join(rng.sample(WORDS, 2))
            expected = bm25(query, state)
            scores = [expected[id] for id in found(kb, query, k=100)]
            assert len(scores) == len(expected)
            assert all(first >= second - 1e-9 for first, second in itertools.pairwise(scores))

    def test_agrees_with_bm25s_on_rare_words(self, kb: KnowledgeBase) -> None:
        bm25s = pytest.importorskip("bm25s")  # comes with the train extra
        rng = random.Random(1)
        texts = [" ".join(rng.choices([f"w{i}" for i in range(400)], k=20)) for _ in range(200)]
        kb.add(texts, ids=[str(i) for i in range(200)])
        model = bm25s.BM25(method="robertson", k1=1.2, b=0.75)
        model.index([text.split() for text in texts], show_progress=False)
        for _ in range(20):
            query = rng.sample([f"w{i}" for i in range(400)], 3)
            scores = model.get_scores([word for word in query if word in model.vocab_dict])
            ranked = [scores[int(id)] for id in found(kb, " ".join(query), k=200)]
            assert len(ranked) == np.count_nonzero(scores)
            assert all(first >= second - 1e-5 for first, second in itertools.pairwise(ranked))


class TestNames:
    def test_a_code_among_three_thousand_is_found(self, kb: KnowledgeBase) -> None:
        rng = random.Random(2)
        codes = rng.sample(range(1000, 9999), 3000)
        kb.add([f"{' '.join(rng.choices(WORDS, k=15))} ERR-{code}" for code in codes], ids=[str(c) for c in codes])
        for code in rng.sample(codes, 50):
            assert found(kb, f"the tide of ERR-{code} and the lamp", k=1) == [str(code)]
            assert kb.search(f"what does ERR-{code} mean?", k=1)[0].id == str(code)

    def test_a_surname_or_a_function_among_three_thousand_is_found(self, kb: KnowledgeBase) -> None:
        rng = random.Random(3)
        names = ["Wanderko", "Strami", "read_cache_token", "parseLedger", "os.walk"]
        texts = [" ".join(rng.choices([*WORDS, "what", "did", "note"], k=20)) for _ in range(3000)]
        kb.add([*texts, *(f"{' '.join(rng.choices(WORDS, k=30))} {name}" for name in names)])
        for name in names:
            assert name in kb.search(f"What did {name} note of it?", k=1)[0].text

    def test_a_name_in_passing_does_not_decide(self, kb: KnowledgeBase) -> None:
        rng = random.Random(4)
        kb.add([" ".join(rng.choices(WORDS, k=20)) for _ in range(3000)])
        told = "The trail to the harbour was closed by frost and the council sold bread from a kettle at every window"
        kb.add([told, "Strami"], ids=["told", "named"])
        assert kb.search(f"{told}, or so said Strami of a parcel.", k=1)[0].id == "told"

    @pytest.mark.models
    def test_a_code_is_found_where_meaning_alone_does_not(self, embedder: Embedder) -> None:
        with KnowledgeBase.open(None, embedder=embedder) as store:
            texts = [f"Error E-{code} means that the pump of line {code % 7} stopped." for code in range(4000, 4060)]
            store.add(texts, ids=[str(code) for code in range(4000, 4060)])
            for code in range(4005, 4060, 15):
                assert store.search(f"E-{code}", k=1)[0].id == str(code)

    @pytest.mark.parametrize(
        ("query", "text"),
        [
            ("os.path.join", "call os.path.join on both"),
            ("snake_case_name", "rename snake_case_name today"),
            ("C3-PO/R2", "droids C3-PO/R2 arrived"),
            ("a@example.org", "write to a@example.org soon"),
            ("10.0.0.254", "the host 10.0.0.254 answers"),
        ],
    )
    def test_a_word_of_several_parts_counts_as_a_whole(self, kb: KnowledgeBase, query: str, text: str) -> None:
        parts = re.findall(r"[a-zA-Z0-9]+", query)
        apart = " ".join(f"{part} x" for part in reversed(parts))
        kb.add([apart, apart + " y", text, *WORDS], ids=["1", "2", "whole", *WORDS])
        assert found(kb, query)[0] == "whole"

    def test_why_says_ranker_and_rank(self, kb: KnowledgeBase) -> None:
        kb.add(["tide lamp", "tide lamp gull", "bread"], ids=["a", "b", "c"])
        by_id = {hit.id: hit.why for hit in kb.search("tide gull", k=3)}
        assert by_id["b"]["lexical"] == 1
        assert sorted(why["dense"] for why in by_id.values()) == [1, 2, 3]
        assert "lexical" not in by_id["c"]
        assert next(hit.why for hit in kb.search("tide gull", mode="lexical")) == {"lexical": 1}
        assert next(hit.why for hit in kb.search("tide gull", mode="dense")) == {"dense": 1}

    def test_how_much_words_count_can_be_set(self, kb: KnowledgeBase) -> None:
        kb.add([f"{a} {b} {c}" for a, b, c in itertools.combinations(WORDS, 3)])
        orders = {
            mode: [hit.id for hit in kb.search("tide gull frost", k=50, mode=mode)] for mode in ("dense", "lexical")
        }
        kb.index.fusion = Fusion(rate=0, lead=0)
        assert [hit.id for hit in kb.search("tide gull frost", k=50)] == orders["dense"]
        kb.index.fusion = Fusion(rate=1e6)
        assert kb.search("tide gull frost", k=1)[0].id == orders["lexical"][0]

    def test_how_much_words_count_follows_the_model_also_into_a_migration(self, kb: KnowledgeBase) -> None:
        class TaughtView(HashingView):
            word_rate = 0.002

        class Taught(HashingEmbedder):
            def view(self, task: Role | str) -> HashingView:
                return TaughtView(self)

        plain = kb.index.fusion
        kb.add(["tide lamp"])
        kb.rebuild(Taught("taught"))
        assert (plain, kb.index.fusion) == (Fusion(), Fusion(rate=0.002))
        kb.index.fusion = Fusion(rate=0.5)
        kb.rebuild(HashingEmbedder())
        assert kb.index.fusion == Fusion(rate=0.5), "what was set stays"

    def test_words_add_candidates_that_meaning_does_not_have(self, kb: KnowledgeBase) -> None:
        kb.add([f"alpha tide {i}" for i in range(300)])
        kb.add(["zx81 bread frost window kettle harbour seal"], ids=["named"])
        assert "named" not in [hit.id for hit in kb.search("zx81 alpha", k=100, mode="dense")]
        hits = {hit.id: hit.why for hit in kb.search("zx81 alpha", k=100)}
        assert hits["named"] == {"lexical": 1}


class TestQueriesAreData:
    @pytest.mark.parametrize(
        "query",
        [
            "tide AND bread",
            "tide OR bread",
            "NOT tide",
            "NEAR(tide bread, 5)",
            "tide*",
            "^tide",
            '"tide',
            'tide" OR "bread',
            "text:tide",
            "space : tide",
            "{text space} : tide",
            "- text : tide",
            "(tide",
            "tide)",
            "tide + bread",
            "tide\x00bread",
            "'; DROP TABLE record; --",
            "%s tide _ ?1 :name",
        ],
    )
    def test_syntax_is_words(self, kb: KnowledgeBase, query: str) -> None:
        kb.add(["the tide is high", "the bread is fresh", "nothing here"], ids=["tide", "bread", "none"])
        named = {word for word in ("tide", "bread") if word in query}
        assert set(found(kb, query)) == named

    def test_operators_are_found_as_words(self, kb: KnowledgeBase) -> None:
        kb.add(["salt AND pepper", "NEAR miss", "to be OR", "plain", "plainer", "other", "more"], ids=list("abcdefg"))
        assert found(kb, "AND") == ["a"]
        assert found(kb, "near") == ["b"]
        assert found(kb, "OR") == ["c"]

    @settings(max_examples=150, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
    def test_no_query_fails_and_none_finds_what_it_does_not_name(self, query: str) -> None:
        with KnowledgeBase.open(None, embedder=HashingEmbedder()) as kb:
            kb.add([query, "zzzqqq"], ids=["same", "other"])
            hits = found(kb, query)
            assert hits in ([], ["same"]) or "zzzqqq" in query.casefold()
            if re.search(r"[^\W_]", query):
                assert hits == ["same"]

    @pytest.mark.parametrize("text", HARD)
    def test_hard_texts_are_stored_searched_and_removed(self, kb: KnowledgeBase, text: str) -> None:
        kb.add([text, "other words"], ids=["hard", "other"])
        assert kb.search(text, k=1)[0].text == text
        if re.search(r"[^\W_]", text):
            assert found(kb, text, k=1) == ["hard"]
        kb.delete(["hard"])
        assert found(kb, text) == []

    def test_a_query_of_thousands_of_words(self, kb: KnowledgeBase) -> None:
        kb.add(["needle", "hay"], ids=["needle", "hay"])
        query = " ".join(f"w{i}-x{i}" for i in range(5000))
        assert found(kb, f"{query} needle") == ["needle"]
        long = [" ".join(f"w{i}" for i in range(start, start + 400)) for start in range(0, 4000, 400)]
        kb.add(long, ids=[f"long{i}" for i in range(10)])
        assert len(found(kb, f"{query} needle", k=20)) == 11


class TestScripts:
    @pytest.mark.parametrize(
        ("query", "text"),
        [
            ("CAFÉ", "le café du coin"),
            ("cafe", "le café du coin"),
            ("Cafe\u0301", "le café du coin"),
            ("viet nam", "Việt Nam"),
            ("ΟΔΟΣ", "η οδος είναι"),
            ("οδος", "Η ΟΔΟΣ ΕΙΝΑΙ"),
            ("İstanbul", "istanbul is large"),
            ("straße", "die Straße ist lang"),
            ("ﬁre", "the ﬁre burns"),
            ("x²", "x² + y"),
            ("москва", "МОСКВА большая"),
            ("한국어", "저는 한국어 공부"),
            ("हिन्दी", "मैं हिन्दी पढ़ता"),
            ("שָׁלוֹם", "אמר שָׁלוֹם לו"),
            ("مرحبا", "قال مرحبا بك"),
            ("世界", "你好，世界。"),
            ("東京", "行き先は「東京」です"),
            ("ไทย", "ประเทศ ไทย สวย"),
        ],
    )
    def test_a_word_is_found_in_its_script(self, kb: KnowledgeBase, query: str, text: str) -> None:
        kb.add([text, "something else"], ids=["here", "other"])
        assert found(kb, query) == ["here"]


class TestFilters:
    def test_a_filter_holds_for_words_too(self, kb: KnowledgeBase) -> None:
        numbers = range(200)
        kb.add([f"tide {n}" for n in numbers], ids=[f"d{n}" for n in numbers], metadatas=[{"n": n} for n in numbers])
        assert sorted(found(kb, "tide", where={"n": {"$gte": 197}})) == ["d197", "d198", "d199"]
        assert found(kb, "tide 5", where={"n": {"$gt": 5}}, k=1) != ["d5"]
        assert found(kb, "tide", where={"n": 1000}) == []

    def test_a_frequent_word_finds_the_few_that_a_filter_lets_through(self, kb: KnowledgeBase) -> None:
        kb.add([f"tide x{i}" for i in range(7000)], metadatas=[{"n": i} for i in range(7000)])
        assert len(found(kb, "tide", where={"n": {"$in": [3, 6999]}})) == 2

    def test_min_score_is_on_the_cosine(self, kb: KnowledgeBase) -> None:
        kb.add(["tide", "tide " + " ".join(WORDS[1:])], ids=["near", "far"])
        assert set(found(kb, "tide")) == {"near", "far"}
        assert found(kb, "tide", min_score=0.9) == ["near"]

    def test_another_tenants_words_are_not_found(self, hashing: HashingEmbedder) -> None:
        ada = Memory.open(None, embedder=hashing, user="ada")
        bob = Memory(ada.index, "bob")
        ada.remember("my code is zx81")
        bob.remember("my code is zx80")
        assert [hit.text for hit in bob.recall("zx81 zx80 code", mode="lexical")] == ["my code is zx80"]
        assert bob.recall("zx81", mode="lexical") == []


def test_ids_with_nul_are_themselves(kb: KnowledgeBase) -> None:
    kb.add(["tide", "lamp", "gull"], ids=["a", "a\x00", "a\x00b"])
    kb.add(["new tide", "new lamp"], ids=["a\x00", "a\x00b"])
    assert kb.delete(["a\x00b"]) == 1
    assert {record.id: record.text for record in kb.index.get()} == {"a": "tide", "a\x00": "new tide"}
    assert [record.id for record in kb.index.get(["a\x00", "a"])] == ["a\x00", "a"]
