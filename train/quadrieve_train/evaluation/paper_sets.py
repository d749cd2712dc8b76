"""The paper's evaluation sets, from the folder that its authors released or from the hub.

All of their `.json` files are JSON lines. A query names its positives by line of the corpus (`pos_index`), where it has
any. Corpora are read as a stream, so that a part of one needs the memory of that part.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quadrieve.errors import InputError

from ..rows import Collection, Query
from .sets import EvalSet, read_paper_rows

#: The authors' dataset repository on the hub, and its archive.
HUB, ARCHIVE = "namespace-Pt/projects", "llm-embedder.tar.gz"

Record = Mapping[str, Any]
_LETTERS = ("A", "B", "C", "D")
_SHOTS = 15


def from_hub(cache_dir: Path | None = None) -> Path:
    """The folder of the authors' archive, downloaded and unpacked once.

    Args:
        cache_dir: Of the hub's client; None for its own.
    """
    from huggingface_hub import hf_hub_download

    archive = Path(hf_hub_download(HUB, ARCHIVE, repo_type="dataset", cache_dir=cache_dir))
    folder = archive.with_name("llm-embedder.unpacked")
    if not folder.is_dir():
        staged = folder.with_suffix(".part")
        with tarfile.open(archive) as packed:
            packed.extractall(staged, filter="data")  # nothing outside of the folder, no devices
        staged.rename(folder)
    inner = folder / "llm-embedder"
    return inner if inner.is_dir() else folder


def paper_sets(folder: Path) -> dict[str, Path]:
    """The sets that a folder in the authors' layout has, by name."""
    return {name: folder / path for name, (path, _) in _SETS.items() if (folder / path).is_file()}


def read_paper_set(folder: Path, name: str, *, queries: int | None = None, keys: int | None = None) -> EvalSet:
    """A set of the paper: `mmlu`, `popqa`, `msc`, `qrecc`, `icl` (30 tasks) or `toolbench`.

    Args:
        folder: In the authors' layout, such as `qa/popqa/test.json` and `qa/nq/corpus.json`.
        name: Name of the set.
        queries: The first that many; None for all.
        keys: Texts of the corpus drawn at random, positives always among them; None for all.

    Raises:
        InputError: If a file is missing, or has not the fields that the layout has.
    """
    if name not in _SETS:
        raise InputError(f"Unknown set {name!r}; the paper's are {', '.join(_SETS)}.")
    path, read = _SETS[name]
    try:
        return replace(read(folder, folder / path, queries, keys), name=name)
    except (OSError, KeyError, IndexError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / path} is not in the layout of {name}: {type(error).__name__} {error}.") from error


def _mmlu(folder: Path, path: Path, queries: int | None, keys: int | None) -> EvalSet:
    """Options are told apart by letter, after a question that lists them."""
    asked = []
    for number, record in enumerate(_lines(path, queries)):
        options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(_LETTERS, record["choices"], strict=False))
        subject = str(record["subject"]).replace("_", " ")
        prompt = f"The following are multiple-choice questions (with answers) about {subject}.\n\n"
        prompt += f"{record['query'].strip()}\n{options}\nAnswer:"
        letters = _LETTERS[: len(record["choices"])]
        meta = {"prompt": prompt, "task": record["subject"]}
        asked.append(_query(number, record, (letters[int(record["answer"])],), letters, meta))
    return _with_corpus("qa", folder / "qa/msmarco/corpus.json", _titled, asked, keys)


def _popqa(folder: Path, path: Path, queries: int | None, keys: int | None) -> EvalSet:
    """Fifteen solved questions of other relations stand before each."""
    first: dict[int, str] = {}
    for record in _lines(path, None):
        first.setdefault(record["prop_id"], f"Q: {record['query'].strip()} A: {record['obj']}\n\n")
    asked = []
    for number, record in enumerate(_lines(path, queries)):
        shots = [shot for relation, shot in first.items() if relation != record["prop_id"]][:_SHOTS]
        answers = record["possible_answers"]
        answers = json.loads(answers) if isinstance(answers, str) else answers
        meta = {"context": "".join(shots), "prop_id": record["prop_id"]}
        asked.append(_query(number, record, tuple(answers), (), meta))
    return _with_corpus("qa", folder / "qa/nq/corpus.json", _titled, asked, keys)


def _msc(folder: Path, path: Path, queries: int | None, keys: int | None) -> EvalSet:
    del folder, keys
    return read_paper_rows(path, "chat", queries=queries)


def _qrecc(folder: Path, path: Path, queries: int | None, keys: int | None) -> EvalSet:
    asked = [_query(number, record, tuple(record.get("answers") or ())) for number, record in _numbered(path, queries)]
    return _with_corpus("convsearch", folder / "convsearch/qrecc/corpus.json", _text, asked, keys)


def _icl(folder: Path, path: Path, queries: int | None, keys: int | None) -> EvalSet:
    """Where a task has options, the answer is the number of one."""
    asked = []
    for number, record in _numbered(path, queries):
        options = tuple(_single_spaced(option) for option in record.get("options") or ())
        answers = tuple(_single_spaced(answer) for answer in record["answers"])
        if options:
            answers = (options[int(answers[0])],)
        task = str(record["task_name"])
        meta = {"task": task, "pool": "mnli" if task in ("mnli_m", "mnli_mm") else task}
        asked.append(_query(number, {**record, "query": _single_spaced(record["query"])}, answers, options, meta))
    return _with_corpus("icl", folder / "icl/icl/corpus.json", _contents, asked, keys)


def _toolbench(folder: Path, path: Path, queries: int | None, keys: int | None) -> EvalSet:
    asked = [_query(number, record, ()) for number, record in _numbered(path, queries)]
    return _with_corpus("tool", folder / "tool/toolbench/corpus.json", _text, asked, keys)


_Reader = Callable[[Path, Path, int | None, int | None], EvalSet]
_SETS: dict[str, tuple[str, _Reader]] = {
    "mmlu": ("qa/mmlu/test.json", _mmlu),
    "popqa": ("qa/popqa/test.json", _popqa),
    "msc": ("chat/msc/test.json", _msc),
    "qrecc": ("convsearch/qrecc/test.concat.json", _qrecc),
    "icl": ("icl/icl/test.json", _icl),
    "toolbench": ("tool/toolbench/test.json", _toolbench),
}


def _titled(record: Record) -> str:
    return f"{record.get('title') or ''} {record['text']}".strip()


def _text(record: Record) -> str:
    return str(record["text"])


def _contents(record: Record) -> str:
    return _single_spaced(record["contents"])


def _single_spaced(text: str) -> str:
    while "  " in text:
        text = text.replace("  ", " ")
    return text


def _query(
    number: int,
    record: Record,
    answers: tuple[str, ...],
    choices: tuple[str, ...] = (),
    meta: Mapping[str, Any] | None = None,
) -> Query:
    positives = record.get("pos_index")
    positives = [] if positives is None else positives if isinstance(positives, list) else [positives]
    identity = str(record.get("query_id", record.get("qid", number)))
    places = tuple(str(int(place)) for place in positives)
    return Query(identity, record["query"].strip(), answers, places, "test", choices, None, None, meta or {})


def _with_corpus(
    task: str, path: Path, text_of: Callable[[Record], str], asked: list[Query], keys: int | None
) -> EvalSet:
    needed = {int(place) for query in asked for place in query.positives}
    chosen: set[int] | None = None
    if keys is not None:
        count = sum(1 for _ in path.open("rb"))
        others = random.Random(13).sample(range(count), min(count, keys))  # noqa: S311 - a seeded draw
        chosen = needed | set(others[: max(0, keys - len(needed))])
    ids, texts, tasks = [], [], {}
    for number, record in enumerate(_lines(path, None, chosen)):
        if record is not None:
            ids.append(str(number))
            texts.append(text_of(record))
            if "task_name" in record:
                tasks[str(number)] = str(record["task_name"])
    missing = needed - set(map(int, ids))
    if missing:
        raise InputError(f"{path} has no line {min(missing)}, which a query names as its positive.")
    collection = Collection(path.parent.name, tuple(ids), tuple(texts), ("",) * len(ids), None, tuple(asked), tasks)
    return EvalSet(path.parent.name, task, collection, tuple(asked))


def _numbered(path: Path, count: int | None) -> Iterator[tuple[int, Record]]:
    return enumerate(_lines(path, count))


def _lines(path: Path, count: int | None, chosen: set[int] | None = None) -> Iterator[Any]:
    """The first records of a file; None in place of those that were not chosen, which are not parsed."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if count is not None and number >= count:
                return
            yield json.loads(line) if chosen is None or number in chosen else None
