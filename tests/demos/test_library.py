"""A folder of files becomes a knowledge base, and stays in step with it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quadrieve import Embedder, InputError, KnowledgeBase
from quadrieve_demos.files import UnreadableError, read, readable
from quadrieve_demos.library import cite, sync

COMMAND = Path(sys.executable).with_name("quadrieve")


def pdf(path: Path, *pages: str) -> None:
    """A PDF of our own making, a line of text a page."""
    streams = [f"BT /F1 12 Tf 72 720 Td ({page}) Tj ET" for page in pages]
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    bodies = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, stream in enumerate(streams):
        bodies.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * i} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        bodies.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(bodies, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(bodies) + 1
    end = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    path.write_bytes((out + f"xref\n0 {size}\n0000000000 65535 f \n{table}{end}").encode("latin-1"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "ferry.txt").write_text("The ferry to Hallig leaves at nine.", encoding="utf-8")
    (folder / "deep" / "oven.md").write_text(
        "# Oven\n\nRead this first.\n\n## Cleaning\n\nUse vinegar, never sand.\n", encoding="utf-8"
    )
    (folder / "shop.html").write_text(
        "<html><head><title>The shop</title><script>alert('x')</script></head>"
        "<body><p>We are closed on <b>Tuesdays</b>.</p></body></html>",
        encoding="utf-8",
    )
    pdf(folder / "boiler.pdf", "This manual is about the boiler.", "Error E-47 means low water pressure.")
    (folder / ".secret.txt").write_text("hidden", encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


def test_each_kind_of_file_is_read_with_where_it_says_so(folder: Path) -> None:
    assert [path.name for path in readable(folder)] == ["boiler.pdf", "oven.md", "ferry.txt", "shop.html"]
    pages = read(folder / "boiler.pdf")
    assert (pages[1].text.strip(), pages[1].where) == ("Error E-47 means low water pressure.", {"page": 2})
    assert read(folder / "deep" / "oven.md")[-1].where == {"heading": "Oven > Cleaning"}
    shop = read(folder / "shop.html")[0]
    assert shop.where == {"title": "The shop"}
    assert "Tuesdays" in shop.text
    assert "alert" not in shop.text


def test_long_files_become_passages_that_a_model_reads_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join(f"Paragraph {i} says a thing or two about {i * 7}." for i in range(500)), "utf-8")
    passages = read(path)
    assert max(len(passage.text) for passage in passages) <= 800
    assert "Paragraph 499" in passages[-1].text


@pytest.mark.parametrize(
    ("name", "data"), [("a.pdf", b"%PDF-1.4 broken"), ("b.txt", b"a\0b"), ("c.pdf", b""), ("d.md", b"\0")]
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnreadableError):
        read(tmp_path / name)


def test_only_what_changed_costs_anything(folder: Path, hashing: Any) -> None:
    with KnowledgeBase.open(None, embedder=hashing) as kb:
        first = sync(kb, folder)
        assert sorted(first.added) == ["boiler.pdf", "deep/oven.md", "ferry.txt", "shop.html"]
        hashing.encoded.clear()
        again = sync(kb, folder)
        assert (again.unchanged, again.added, again.changed, again.removed, again.passages) == (4, [], [], [], 0)
        assert hashing.encoded == []

        (folder / "ferry.txt").write_text("The ferry to Hallig leaves at ten.", encoding="utf-8")
        (folder / "shop.html").unlink()
        (folder / "new.txt").write_text("The lighthouse is white.", encoding="utf-8")
        third = sync(kb, folder)
        assert (third.added, third.changed, third.removed) == (["new.txt"], ["ferry.txt"], ["shop.html"])
        assert len(hashing.encoded) == 2
        texts = {record.text for record in kb.index.get()}
        assert "The ferry to Hallig leaves at ten." in texts
        assert not any("nine" in text or "Tuesdays" in text for text in texts)


def test_a_file_that_became_shorter_leaves_nothing_behind(tmp_path: Path, hashing: Any) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(f"Paragraph {i} about the old harbour." for i in range(200)), "utf-8")
    with KnowledgeBase.open(None, embedder=hashing) as kb:
        assert sync(kb, tmp_path).passages > 5
        path.write_text("One line only.", "utf-8")
        sync(kb, tmp_path)
        assert [record.text for record in kb.index.get()] == ["One line only."]


def test_a_file_whose_writing_was_stopped_is_written_again(folder: Path, hashing: Any) -> None:
    with KnowledgeBase.open(None, embedder=hashing) as kb:
        sync(kb, folder)
        whole = {record.id for record in kb.index.get()}
        kb.delete(where={"source": "boiler.pdf", "part": 0})  # the passage that is written last
        assert sync(kb, folder).added == ["boiler.pdf"]
        assert {record.id for record in kb.index.get()} == whole


def test_two_folders_of_one_knowledge_base_do_not_remove_each_other(folder: Path, hashing: Any) -> None:
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    with KnowledgeBase.open(None, embedder=hashing) as kb:
        sync(kb, folder)
        sync(kb, other)
        (other / "ferry.txt").unlink()
        assert sync(kb, other).removed == ["ferry.txt"]
        assert kb.count(where={"source": "ferry.txt"}) == 1


def test_no_folder_is_refused(tmp_path: Path, hashing: Any) -> None:
    with KnowledgeBase.open(None, embedder=hashing) as kb, pytest.raises(InputError, match="is no folder"):
        sync(kb, tmp_path / "none")


def test_the_real_model_finds_the_source(folder: Path, embedder: Embedder) -> None:
    with KnowledgeBase.open(None, embedder=embedder) as kb:
        sync(kb, folder)
        for question, source in {
            "What does E-47 mean?": "boiler.pdf, page 2",
            "May I clean it with sand?": "deep/oven.md, Oven > Cleaning",
            "On which day can I not buy anything?": "shop.html, The shop",
            "When does the boat go?": "ferry.txt",
        }.items():
            assert cite(kb.search(question, k=1)[0].metadata) == source


def run(*arguments: str, at: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=at)


def test_the_commands_index_and_search_with_sources(folder: Path) -> None:
    at = folder.parent
    assert run("search", "Anything?", at=at).stderr.startswith("quadrieve: There is no knowledge base in 'library'")
    assert not (at / "library").exists()
    done = run("index", "notes", at=at)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 files added")
    assert "Indexing" in done.stderr

    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 broken")
    again = run("index", "notes", "--json", at=at)
    told = json.loads(again.stdout)
    assert (again.returncode, told["unchanged"], list(told["failed"])) == (1, 4, ["broken.pdf"])

    found = run("search", "What does E-47 mean?", "--k", "1", "--json", at=at)
    hit = json.loads(found.stdout)["hits"][0]
    assert hit["source"] == "boiler.pdf, page 2"
    assert "low water pressure" in hit["text"]
