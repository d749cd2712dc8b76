"""Training rows: what a query was, which candidates it had, and what they are worth.

Rows come as JSON lines in the paper's released format, with all its irregular fields; as a collection, a folder with
`corpus.jsonl` and `queries.jsonl`; or as any `datasets.Dataset` whose columns are named. They are checked one by one
and kept in Arrow files, so they are memory-mapped and their number is bounded by the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quadrieve import find_task
from quadrieve.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

#: Names in released files for what we call `rewards`, `query_id` and `choices`.
_SYNONYMS = {"rewards": ("teacher_scores",), "query_id": ("qid", "id"), "choices": ("options",)}


@dataclass(frozen=True, slots=True)
class Row:
    """One query with its candidates, `pos` and then `neg`.

    Attributes:
        task: Name of a task.
        query_id: Names the query within its file.
        query: The user's input.
        pos: Candidates labelled positive; may be empty where only a language model judges.
        neg: The other candidates.
        answers: Desired outputs, the first one is scored.
        choices: The closed set of outputs, where the task has one.
        context: Text before the query that the language model reads but the embedder does not.
        rewards: What a language model made of each candidate, aligned to `pos + neg`; empty where nobody asked.
        rewarded_by: Which language model and which reward, empty where that is not known.
        qualities: How good the model's answer was with each candidate (0 to 1), aligned likewise; may be empty.
    """

    task: str
    query: str
    pos: tuple[str, ...] = ()
    neg: tuple[str, ...] = ()
    query_id: str = ""
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    context: str = ""
    rewards: tuple[float, ...] = ()
    rewarded_by: str = ""
    qualities: tuple[float, ...] = ()

    @property
    def candidates(self) -> tuple[str, ...]:
        """All candidates, those labelled positive first."""
        return self.pos + self.neg

    def to_json(self) -> str:
        """One line of the paper's format: empty fields are left out, rewards are called `teacher_scores`."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "rewards"}
        line = {name: value for name, value in fields.items() if value or name in ("pos", "neg")}
        if self.rewards:
            line["teacher_scores"] = self.rewards
        return json.dumps(line, ensure_ascii=False)


def features() -> Features:
    """The Arrow types of a row's columns."""
    from datasets import Features, List, Value

    text, number = Value("string"), Value("float64")
    types: dict[str, Any] = dict.fromkeys(("task", "query", "query_id", "context", "rewarded_by"), text)
    types |= dict.fromkeys(("pos", "neg", "answers", "choices"), List(text))
    return Features({**types, "rewards": List(number), "qualities": List(number)})


def parse_row(record: Mapping[str, Any], task: str | None = None) -> Row:
    """A row from one record of any of the released shapes.

    `chat` records have a `history` for candidates, tool records a `qid`, and the `pos` of `lrlm` records is empty.

    Args:
        record: Fields by name; unknown ones are ignored.
        task: Task of records that do not say.

    Raises:
        InputError: If a field is missing, of a wrong type, or not aligned to the candidates.

    Example:
        >>> row = parse_row({"query": "Hi", "history": ["a", "b"], "teacher_scores": [-1, -2], "task": "chat"})
        >>> row.candidates, row.rewards
        (('a', 'b'), (-1.0, -2.0))
    """
    name = record.get("task") or task
    if not isinstance(name, str):
        raise InputError("the row names no task; add a 'task' field or pass task=…")
    query = record.get("query")
    if not isinstance(query, str) or not query.strip():
        raise InputError(f"'query' must be a text, got {query!r}")
    pos = _texts(record, "pos")
    neg = _texts(record, "neg") + _texts(record, "history")
    if not pos and not neg:
        raise InputError("there is no candidate: expected 'pos', 'neg' or 'history'")
    row = Row(
        task=find_task(name).name,
        query=query,
        pos=pos,
        neg=neg,
        query_id=str(_first(record, "query_id", default="")),
        answers=_texts(record, "answers"),
        choices=_texts(record, "choices"),
        context=str(record.get("context") or ""),
        rewards=_numbers(record, "rewards"),
        rewarded_by=str(record.get("rewarded_by") or ""),
        qualities=_numbers(record, "qualities"),
    )
    for name_of, numbers in (("rewards (or 'teacher_scores')", row.rewards), ("qualities", row.qualities)):
        if numbers and len(numbers) != len(row.candidates):
            raise InputError(
                f"'{name_of}' has {len(numbers)} numbers for {len(row.candidates)} candidates; expected one each, "
                "in the order of pos + neg"
            )
    return row


def read_rows(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    task: str | None = None,
    *,
    streaming: bool = False,
    cache_dir: str | None = None,
) -> Dataset | IterableDataset:
    """Read JSON lines into a dataset of rows, each checked.

    Args:
        path: One file or several.
        task: Task of rows that do not say.
        streaming: Read while iterating and keep nothing; otherwise rows are written to an Arrow file and mapped.
        cache_dir: Where Arrow files go; None for the cache of `datasets`.

    Raises:
        InputError: If a file cannot be read or a row is wrong; the message begins with file and line number.
    """
    from datasets import Dataset, IterableDataset
    from datasets.exceptions import DatasetGenerationError

    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    # The stamps make a changed file another dataset: the cache is keyed by the arguments.
    stamps = [(str(Path(p).resolve()), *_stamp(p)) for p in paths]
    arguments = {"stamps": stamps, "task": task}
    if streaming:
        return IterableDataset.from_generator(_read_lines, gen_kwargs=arguments, features=features())
    try:
        with _no_bars():
            dataset: Dataset = Dataset.from_generator(
                _read_lines, gen_kwargs=arguments, features=features(), cache_dir=cache_dir, split="train"
            )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
    return dataset


def rows_from(dataset: Any, task: str, **columns: str) -> Dataset:
    """Rows from any dataset with named columns.

    Args:
        dataset: A `datasets.Dataset`, or an iterable of dictionaries.
        task: The task of all rows.
        **columns: The dataset's column for a field of `Row`, such as `query="question", pos="passage"`. A column of
            texts stands for lists of one.

    Raises:
        InputError: If a field or column is unknown, or a row is wrong; the message has the row's number.

    Example:
        >>> rows = rows_from([{"q": "Who makes honey?", "p": "Bees do."}], "qa", query="q", pos="p")
        >>> rows[0]["pos"]
        ['Bees do.']
    """
    unknown = set(columns) - set(Row.__slots__)
    if unknown:
        raise InputError(f"Unknown field {sorted(unknown)[0]!r}; the fields of a row are {', '.join(Row.__slots__)}.")
    present = getattr(dataset, "column_names", None)
    missing = [column for column in columns.values() if present is not None and column not in present]
    if missing:
        raise InputError(f"The dataset has no column {missing[0]!r}; it has {', '.join(present or ())}.")
    named = ({field: record.get(column) for field, column in columns.items()} for record in dataset)
    return from_rows(_numbered(named, "row {}", lambda record: parse_row(record, task)))


def from_rows(rows: Iterable[Row]) -> Dataset:
    """A dataset in memory of rows that are at hand."""
    from datasets import Dataset

    records = [_columns(row) for row in rows]
    return Dataset.from_dict({name: [record[name] for record in records] for name in features()}, features=features())


def write_rows(rows: Iterable[Row], path: str | os.PathLike[str]) -> Path:
    """Write rows as JSON lines that `read_rows` reads, all or nothing."""
    return write_lines((row.to_json() + "\n" for row in rows), Path(path))


def write_lines(lines: Iterable[str], target: Path) -> Path:
    """Write a file, all or nothing: runs that share its folder never read a part of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    with staged.open("w", encoding="utf-8") as file:
        file.writelines(lines)
    staged.replace(target)
    return target


def row_at(dataset: Any, index: int) -> Row:
    """Row `index` of a dataset that this module made."""
    return as_row(dataset[int(index)])


def as_row(record: Mapping[str, Any]) -> Row:
    """A record of such a dataset as a row, unchecked; other columns are left out."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record.items()
        if name in Row.__slots__
    }
    return Row(**values)


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a collection; `positives` are ids of its corpus."""

    id: str
    text: str
    answers: tuple[str, ...]
    positives: tuple[str, ...]
    split: str
    choices: tuple[str, ...]
    conversation: str | None
    turn: int | None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Collection:
    """A corpus and queries against it; where queries belong to a conversation, only its earlier rows are candidates.

    Attributes:
        name: The folder's name.
        ids: Corpus ids.
        texts: Corpus texts, aligned.
        titles: Corpus titles, aligned, empty where there is none; a tool's title is its name.
        places: `(conversation, turn)` of each corpus row, or None where rows have no conversation.
        queries: All queries, of every split.
        tasks: The task (`meta.task`) of each corpus id that names one; of solved examples.
    """

    name: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    titles: tuple[str, ...]
    places: tuple[tuple[str, int], ...] | None
    queries: tuple[Query, ...]
    tasks: Mapping[str, str] = field(default_factory=dict)

    def split(self, name: str) -> list[Query]:
        """The queries of a split."""
        return [query for query in self.queries if query.split == name]


def read_collection(folder: str | os.PathLike[str]) -> Collection:
    """Read `corpus.jsonl` (`id`, `text`, `meta`) and `queries.jsonl` (`id`, `text`, `answers`, `positives`, `split`).

    `meta.conversation` and `meta.turn`, on both sides, bound the candidates of a query to the earlier rows of its
    conversation; `meta.choices` is the closed set of a query's answers.

    Raises:
        InputError: If a file is missing or a line is wrong; the message begins with file and line number.
    """
    root = Path(folder)
    corpus = {identity: rest for identity, *rest in _numbered_lines(root / "corpus.jsonl", _parse_document)}
    queries = tuple(_numbered_lines(root / "queries.jsonl", lambda record: _parse_query(record, corpus)))
    places = [place for _, _, place, _ in corpus.values() if place is not None]
    bound = any(query.conversation is not None for query in queries)
    if bound and len(places) < len(corpus):
        raise InputError(f"{root / 'corpus.jsonl'}: every row needs meta.conversation and meta.turn, as queries do.")
    return Collection(
        root.name,
        tuple(corpus),
        tuple(text for text, *_ in corpus.values()),
        tuple(title for _, title, *_ in corpus.values()),
        tuple(places) if bound else None,
        queries,
        {identity: task for identity, (*_, task) in corpus.items() if task},
    )


def _parse_document(record: Mapping[str, Any]) -> tuple[str, str, str, tuple[str, int] | None, str]:
    identity, text = record.get("id"), record.get("text")
    if not isinstance(identity, str) or not isinstance(text, str) or not text.strip():
        raise InputError("expected the texts 'id' and 'text'")
    meta = record.get("meta") or {}
    place = (str(meta["conversation"]), int(meta["turn"])) if "conversation" in meta and "turn" in meta else None
    return identity, text, str(record.get("title") or ""), place, str(meta.get("task") or "")


def _parse_query(record: Mapping[str, Any], corpus: Mapping[str, Any]) -> Query:
    if not isinstance(record.get("id"), str) or not isinstance(record.get("text"), str):
        raise InputError("expected the texts 'id' and 'text'")
    meta = record.get("meta") or {}
    positives = _texts(record, "positives")
    unknown = [identity for identity in positives if identity not in corpus]
    if unknown:
        raise InputError(f"the positive {unknown[0]!r} is not in the corpus")
    return Query(
        id=record["id"],
        text=record["text"],
        answers=_texts(record, "answers"),
        positives=positives,
        split=str(record.get("split") or "train"),
        choices=_texts(meta, "choices"),
        conversation=str(meta["conversation"]) if "conversation" in meta else None,
        turn=int(meta["turn"]) if "conversation" in meta and "turn" in meta else None,
        meta=meta,
    )


def content_hash(*parts: object) -> str:
    """A hash of JSON values: equal content, equal hash, in every process."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the progress bars of datasets out of people's output."""
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def _columns(row: Row) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in Row.__slots__}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _read_lines(stamps: list[tuple[str, int, int]], task: str | None) -> Iterator[dict[str, Any]]:
    for path, *_ in stamps:
        yield from map(_columns, _numbered_lines(Path(path), lambda record: parse_row(record, task)))


def _numbered_lines(path: Path, parse: Callable[[Mapping[str, Any]], Any]) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from _numbered(_decoded(file), f"{path}:{{}}", parse)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 JSON lines: {error}") from error


def _decoded(lines: Iterable[str]) -> Iterator[Any]:
    for line in lines:
        try:
            yield json.loads(line) if line.strip() else None
        except ValueError as error:
            yield error


def _numbered(records: Iterable[Any], place: str, parse: Callable[[Mapping[str, Any]], Any]) -> Iterator[Any]:
    """Parse each record; an error says where. Empty lines are passed over."""
    for number, record in enumerate(records, start=1):
        if record is None:
            continue
        try:
            if not isinstance(record, Mapping):
                raise InputError(f"expected a JSON object, got {record!r:.80}")
            yield parse(record)
        except (InputError, ValueError, TypeError) as error:
            raise InputError(f"{place.format(number)}: {error}") from error


def _first(record: Mapping[str, Any], field: str, default: Any = None) -> Any:
    names = (field, *_SYNONYMS.get(field, ()))
    return next((record[name] for name in names if record.get(name) is not None), default)


def _texts(record: Mapping[str, Any], field: str) -> tuple[str, ...]:
    value = _first(record, field)
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"'{field}' must be a list of texts, got {value!r:.80}")
    return tuple(texts)


def _numbers(record: Mapping[str, Any], field: str) -> tuple[float, ...]:
    value = _first(record, field)
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(
        isinstance(number, int | float) and math.isfinite(number) for number in value
    ):
        raise InputError(f"'{field}' must be a list of finite numbers, got {value!r:.80}")
    return tuple(float(number) for number in value)


def _stamp(path: str | os.PathLike[str]) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise InputError(f"No file {str(path)!r} to read rows from.") from error
    return status.st_size, status.st_mtime_ns
