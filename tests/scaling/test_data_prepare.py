"""`scaling data prepare` and `show`: every kind of source, every kind of fault, nothing half written."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.data.documents import Document, cut, split_documents
from scaling.data.prepare import prepare
from scaling.data.text import Prepared, open_prepared
from scaling.errors import UserError


def essay(number: int, paragraphs: int = 6) -> str:
    """A text of about 300 bytes a paragraph, unlike that of any other number."""
    words = "Words of it go on. " * 15
    return "\n\n".join(f"Essay {number}, part {part}. {words}" for part in range(paragraphs))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "essays"
    for number in range(40):
        file = source / f"sub{number % 3}" / f"{number}.{'md' if number % 2 else 'txt'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(essay(number))
    (source / "ignored.png").write_bytes(b"\xff\xfe")
    return source


def scaling(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scaling.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def texts(prepared: Prepared, split: str) -> list[str]:
    joined = prepared.tokens(split).tobytes()  # type: ignore[arg-type]
    assert joined[0] == 0
    return joined[1:].decode().split("\0")


def test_folder_is_split_by_file(folder: Path, tmp_path: Path) -> None:
    prepared, notes = prepare(folder, tmp_path / "out", val_fraction=0.1)
    train, validation = texts(prepared, "train"), texts(prepared, "validation")
    assert sorted(train + validation) == sorted(essay(number) for number in range(40))
    assert len(validation) == prepared.val_documents == 4
    assert (prepared.name, prepared.source) == ("essays", str(folder))
    assert open_prepared(tmp_path / "out") == prepared
    assert any("fewer than the 262,144" in note for note in notes)


def test_same_text_elsewhere_has_the_same_fingerprint(folder: Path, tmp_path: Path) -> None:
    first, _ = prepare(folder, tmp_path / "out")
    moved = folder.rename(tmp_path / "moved")
    second, _ = prepare(moved, tmp_path / "deep" / "er" / "out")
    assert second.fingerprint == first.fingerprint
    (moved / "sub0" / "0.txt").write_text(essay(99))
    assert prepare(moved, tmp_path / "third")[0].fingerprint != first.fingerprint


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_json_lines_are_a_document_each(tmp_path: Path, suffix: str) -> None:
    lines = [json.dumps({"body": essay(n), "n": n}, ensure_ascii=bool(n % 2)) for n in range(30)]
    raw = ("\r\n".join(lines[:20]) + "\n\n" + "\n".join(lines[20:])).encode()
    source = tmp_path / f"lines{suffix}"
    source.write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)
    prepared, _ = prepare(source, tmp_path / "out", text_field="body", name="mine")
    assert sorted(texts(prepared, "train") + texts(prepared, "validation")) == sorted(map(essay, range(30)))
    assert prepared.name == "mine"


def test_single_file_is_cut_between_paragraphs_and_still_split(tmp_path: Path) -> None:
    source = tmp_path / "book.txt"
    source.write_bytes(b"\xef\xbb\xbf" + essay(1, 400).replace("\n", "\r\n").encode())
    prepared, notes = prepare(source, tmp_path / "out")
    train, validation = texts(prepared, "train"), texts(prepared, "validation")
    assert any("cut 1 long document" in note for note in notes)
    for piece in train + validation:
        assert piece.startswith("Essay 1, part")  # no byte-order mark, no paragraph torn
    parts = [part for piece in train + validation for part in piece.split("\n\n") if part]
    assert sorted(parts) == sorted(essay(1, 400).split("\n\n"))
    assert 0.03 < prepared.val_tokens / (prepared.val_tokens + prepared.train_tokens) < 0.08


CUTTABLE = ["a b\n\nc " * 999, "no-break" * 999, "é" * 4999, "line\n" * 1999 + "€" * 99]


@pytest.mark.parametrize("text", CUTTABLE, ids=["paragraphs", "no break", "two bytes", "lines"])
@pytest.mark.parametrize("limit", [100, 101, 997])
def test_cut_gives_even_pieces_that_join_to_the_text(text: str, limit: int) -> None:
    raw = text.encode()
    pieces = [bytes(piece) for piece in cut(raw, limit)]
    assert b"".join(pieces) == raw
    assert all(limit / 4 < len(piece) <= 1.5 * limit for piece in pieces)
    assert [piece.decode() for piece in pieces]  # no character torn


def test_copies_of_a_text_fall_into_one_split(tmp_path: Path) -> None:
    source = tmp_path / "s.jsonl"
    source.write_text("".join(json.dumps({"text": essay(n % 25)}) + "\n" for n in range(100)))
    prepared, _ = prepare(source, tmp_path / "out", val_fraction=0.2)
    assert not set(texts(prepared, "train")) & set(texts(prepared, "validation"))


@pytest.mark.parametrize("sizes", [[5, 5], [1, 9000, 9000], [100] * 50, [10, *[3000] * 5], [7000, 10, 10]])
@pytest.mark.parametrize("fraction", [0.001, 0.05, 0.5])
def test_both_splits_hold_something_and_validation_its_share(sizes: list[int], fraction: float) -> None:
    documents = [Document(f"{i}", b"x" * size) for i, size in enumerate(sizes)]
    splits = split_documents(documents, fraction)
    held = {split: sum(len(document.text) for document in members) for split, members in splits.items()}
    assert splits["train"] and splits["validation"]
    assert sorted(d.id for members in splits.values() for d in members) == sorted(d.id for d in documents)
    assert held["validation"] >= fraction * sum(sizes) / 2 or len(splits["train"]) == 1


def test_prepared_folder_is_replaced_and_any_other_kept(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, _ = prepare(folder, out)
    (folder / "more.txt").write_text(essay(50))
    second, _ = prepare(folder, out)
    assert second.train_documents + second.val_documents == 41 and second.fingerprint != first.fingerprint
    for mine in (folder, folder / "more.txt"):
        with pytest.raises(UserError, match="--out"):
            prepare(folder, mine)
    assert (folder / "more.txt").read_text() == essay(50)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["essays", "out"]


FAULTS = {
    "bytes.txt": (b"x" * 20_000 + b"\xff", r"bytes.txt is not UTF-8 \(byte 0xff at position 20000\)"),
    "cut.txt": (("é" * 9000).encode()[:-1], "position 17998"),
    "zero.txt": (b"x" * 20_000 + b"\0x", r"zero byte \(position 20000\)"),
    "short.txt": (b"too short", "9 bytes of text; give at least 10,000"),
    "blank.txt": (b" \n" * 20_000, "0 bytes of text"),
    "bad.jsonl": (b'{"text": "a"}\n\n{"text": ', r"bad.jsonl line 3 is not JSON \(.*column"),
    "list.jsonl": (b"[1]\n", "line 1 is not a JSON object"),
    "field.jsonl": (b'{"body": "a"}\n', "line 1 has no field 'text'; it has body: .*--text-field"),
    "type.jsonl": (b'{"text": 3}\n', "line 1: field 'text' is int"),
    "half.jsonl": (b'{"text": "\\ud800"}\n', "line 1: field 'text' is not valid text"),
    "zero.jsonl": (b'{"text": "\\u0000"}\n', "line 1 holds a zero byte"),
    "bytes.jsonl": (b'{"text": "a"}\n{"text": "\xff"}\n', r"line 2 is not UTF-8 \(byte 0xff at position 10"),
    "same.jsonl": ((b'{"text": "' + b"ab" * 600 + b'"}\n') * 20, "copies of one text"),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "a"}\n' * 99)[:-9], "cannot be read"),
    "no.jsonl.gz": (b"not gzip", "cannot be read"),
    "table.csv": (b"a,b", "no known kind"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    content, said = FAULTS[name]
    source = tmp_path / name
    source.write_bytes(content)
    with pytest.raises(UserError, match=said):
        prepare(source, tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == [source]


def test_missing_source_empty_folder_and_odd_fraction(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="does not exist"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match=r"holds no \.txt"):
        prepare(empty, tmp_path / "out")
    for fraction in (0.0, -0.1, 0.6, float("nan")):
        with pytest.raises(UserError, match="--val-fraction"):
            prepare(folder, tmp_path / "out", val_fraction=fraction)
    assert not (tmp_path / "out").exists()


def test_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = scaling("data", "prepare", str(folder), "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["path"] == str(out) and said["train_documents"] + said["val_documents"] == 40
    shown = scaling("data", "show", str(out))
    assert f"{said['train_tokens']:,} tokens" in shown.stdout and said["fingerprint"] in shown.stdout
    embedded = scaling("data", "show", "--json")
    assert {source["name"] for source in json.loads(embedded.stdout)["sources"]} == {"austen", "addresses"}


def test_text_that_is_not_utf8_is_exit_2_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    bad = folder / "sub0" / "bad.txt"
    bad.write_bytes(b"caf\xe9")
    before = sorted(tmp_path.rglob("*"))
    done = scaling("data", "prepare", str(folder), "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {bad} is not UTF-8 (byte 0xe9 at position 3)")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
