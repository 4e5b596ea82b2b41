"""The user's own text: .txt and .md files, JSON lines (plain or gzipped), one file or a folder of them.

Nothing is guessed about bad input: the first fault stops the reading with a UserError that names the file
and the place.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from scaling.errors import UserError

SUFFIXES = (".txt", ".md", ".jsonl", ".jsonl.gz")


def find_files(source: Path) -> list[Path]:
    """The files of a source, sorted. Raises UserError when there is nothing of a known kind."""
    if source.is_dir():
        found = sorted(path for path in source.rglob("*") if _is_known(path) and path.is_file())
        if not found:
            raise UserError(f"{source} holds no {', '.join(SUFFIXES)} file; give a folder that does.")
        return found
    if not source.exists():
        raise UserError(f"{source} does not exist; give a folder of texts, or a .txt or .jsonl file.")
    if not _is_known(source):
        raise UserError(f"{source} is of no known kind; give a folder, or a {', '.join(SUFFIXES)} file.")
    return [source]


def read_texts(
    source: Path, text_field: str, read: Callable[[int], None] = lambda size: None
) -> Iterator[tuple[str, bytes]]:
    """(id, UTF-8 text) of every document, empty ones included; `read` hears the bytes taken from disk.

    Line ends become "\\n". Raises UserError naming the file and the byte or line at fault.
    """
    for file in find_files(source):
        name = file.relative_to(source).as_posix() if source.is_dir() else file.name
        try:
            if _is_json_lines(file):
                yield from _json_lines(file, name, text_field, read)
            else:
                raw = file.read_bytes()
                read(len(raw))
                yield name, _clean(raw, str(file))
        except (OSError, EOFError, zlib.error) as error:  # the last two: a gzip file cut off or damaged
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{file} cannot be read ({reason}); mend it or leave it out.") from error


def size_on_disk(source: Path) -> int:
    """Bytes of all files of a source."""
    return sum(file.stat().st_size for file in find_files(source))


def _is_known(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def _is_json_lines(path: Path) -> bool:
    return path.name.lower().endswith((".jsonl", ".jsonl.gz"))


def _json_lines(
    file: Path, name: str, text_field: str, read: Callable[[int], None]
) -> Iterator[tuple[str, bytes]]:
    with file.open("rb") as raw:
        lines = gzip.GzipFile(fileobj=raw) if file.suffix.lower() == ".gz" else raw
        before = 0
        for number, line in enumerate(lines, 1):
            where = f"{file} line {number}"
            text = _clean(line, where).strip()
            read(raw.tell() - before)
            before = raw.tell()
            if text:
                yield f"{name}:{number:08d}", _clean(_field(text, text_field, where), where)


def _field(line: bytes, text_field: str, where: str) -> bytes:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        at = f"{error.msg}, column {error.colno}"
        raise UserError(f"{where} is not JSON ({at}); each line must be one JSON object.") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object; each line must be one, like {{{text_field!r}: ...}}.")
    if text_field not in row:
        fields = ", ".join(row) or "none"
        raise UserError(f"{where} has no field {text_field!r}; it has {fields}: name one with --text-field.")
    text = row[text_field]
    if not isinstance(text, str):
        raise UserError(f"{where}: field {text_field!r} is {type(text).__name__}; it must be a string.")
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, escaped
        raise UserError(f"{where}: field {text_field!r} is not valid text ({error.reason}).") from None


def _clean(raw: bytes, where: str) -> bytes:
    """Checked UTF-8 without byte-order mark, carriage returns normalised."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start}); "
            f"convert it, for example with `iconv -t utf-8`."
        ) from None
    if (at := raw.find(b"\0")) >= 0:
        raise UserError(f"{where} holds a zero byte (position {at}), which separates documents; remove it.")
    return raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
