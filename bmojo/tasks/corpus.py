"""A corpus that every machine has: the source of Python's own standard library."""

from __future__ import annotations

import functools
import hashlib
import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Corpus", "SourceFile", "parted", "standard_library", "without_copies"]

SEPARATOR = b"\0"
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "_bundled"}
SHORTEST_LINE = 20  # shorter lines are shared by files that are no copies


@dataclass(frozen=True)
class SourceFile:
    """A file's path below the library's folder, with forward slashes, and its bytes.

    Parameters
    ----------
    name : str
    content : bytes
    """

    name: str
    content: bytes


@dataclass(frozen=True, eq=False)
class Corpus:
    """Files to learn from and files held back, and what they are of.

    Parameters
    ----------
    title : str
        What it is, with the version.
    train, held : tuple of SourceFile
        No file is in both, and none is a copy of another.
    dropped : tuple of str
        Names of the files that were left out as copies.

    Examples
    --------
    >>> from bmojo.tasks import standard_library
    >>> corpus = standard_library()
    >>> corpus.title.startswith("Python 3."), len(corpus.train) > len(corpus.held) > 0
    (True, True)
    """

    title: str
    train: tuple[SourceFile, ...]
    held: tuple[SourceFile, ...]
    dropped: tuple[str, ...]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all names and contents, 16 hexadecimal digits: the same corpus has the same."""
        found = hashlib.sha256()
        for part in (self.train, self.held):
            for file in part:
                found.update(f"{file.name} {len(file.content)}\n".encode() + file.content)
            found.update(SEPARATOR)
        return found.hexdigest()[:16]

    def text(self, part: str) -> bytes:
        """The files of `"train"` or `"held"` behind one another, each with a zero byte in front."""
        return b"".join(SEPARATOR + file.content for file in getattr(self, part))


@functools.lru_cache(maxsize=1)
def standard_library() -> Corpus:
    """Python's standard library as a corpus, split by file, without copies.

    Modules that `sys.stdlib_module_names` lists, without their tests: what a machine has installed besides
    does not enter. A file goes to the held part by a hash of its name, so that it stays there in every
    version.

    Returns
    -------
    Corpus

    Raises
    ------
    FileNotFoundError
        If this Python came without its sources.

    Examples
    --------
    >>> from bmojo.tasks import standard_library
    >>> "json/decoder.py" in {file.name for file in standard_library().train}
    True
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [SourceFile(name, path.read_bytes()) for name, path in _sources(folder)]
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no source of the standard library; install a Python that comes with it."
        )
    kept, dropped = without_copies(files)
    train, held = parted(kept)
    # A file may repeat most of one that comes before it in the alphabet, and more besides.
    held, repeated = without_copies(held, beside=train)
    title = f"Python {platform.python_version()} standard library"
    return Corpus(title, train, held, (*dropped, *repeated))


def _sources(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        if parts[0].removesuffix(".py") in sys.stdlib_module_names and not LEFT_OUT & set(parts):
            yield "/".join(parts), path


def without_copies(
    files: Iterable[SourceFile], *, beside: Iterable[SourceFile] = ()
) -> tuple[tuple[SourceFile, ...], tuple[str, ...]]:
    r"""Files of which most long lines are new, in the order of their names; and the names of the others.

    A file is a copy where half of its different lines of 20 characters and more, or all of a shorter text,
    stood in files before it. Files that are no UTF-8 are left out too.

    Parameters
    ----------
    files : iterable of SourceFile
    beside : iterable of SourceFile
        Others, of which they are to be no copies either.

    Returns
    -------
    kept : tuple of SourceFile
    dropped : tuple of str

    Examples
    --------
    >>> from bmojo.tasks.corpus import SourceFile, without_copies
    >>> one, two = (f"import {name}  # a line that is long enough\n".encode() for name in "ab")
    >>> files = [SourceFile("1.py", one), SourceFile("2.py", one), SourceFile("3.py", two)]
    >>> kept, dropped = without_copies(files)
    >>> [file.name for file in kept], dropped
    (['1.py', '3.py'], ('2.py',))
    """
    others = tuple(beside)
    seen: set[bytes] = set().union(*map(_long_lines, others))
    whole: set[bytes] = {file.content.strip() for file in others}
    kept, dropped = [], []
    for file in sorted(files, key=lambda file: file.name):
        lines = _long_lines(file)
        known = len(lines & seen)
        text = file.content.strip()
        if not text or text in whole or not _is_text(file.content) or (lines and 2 * known >= len(lines)):
            dropped.append(file.name)
            continue
        seen |= lines
        whole.add(text)
        kept.append(file)
    return tuple(kept), tuple(dropped)


def parted(files: Iterable[SourceFile]) -> tuple[tuple[SourceFile, ...], tuple[SourceFile, ...]]:
    """Files to learn from, and one in ten held back, by the hash of its name.

    Parameters
    ----------
    files : iterable of SourceFile

    Returns
    -------
    train, held : tuple of SourceFile
    """
    parts: tuple[list[SourceFile], list[SourceFile]] = [], []
    for file in files:
        place = int.from_bytes(hashlib.sha256(file.name.encode()).digest()[:4]) % 10
        parts[place == 0].append(file)
    return tuple(parts[0]), tuple(parts[1])


def _long_lines(file: SourceFile) -> set[bytes]:
    lines = (line.strip() for line in file.content.splitlines())
    return {line for line in lines if len(line) >= SHORTEST_LINE}


def _is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return SEPARATOR not in content
