"""The operator's word list: terms that no prompt may hold, in a text file.

    # a comment; blank lines say nothing
    赌博
    some words
    !赌博心理学     never refused, though it holds a term: the longest phrase decides

UTF-8, one term a line. File and prompt are folded alike (full width, case, traditional characters,
invisible characters, runs of blanks). A term of letters or digits is found as a whole word, so
that `ass` is not found in `class`; Chinese has no such limits: there, exceptions tell the cases.
"""

import threading
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from knowledge.folding import simplified_characters
from rapid_diffusion.errors import InvalidRequestError

MOST_TERMS = 100_000
_LONGEST_TERM = 200
# Ideographs, kana and hangul are written without blanks, so they have no words to be cut.
_UNSPACED = ((0x2E80, 0xA000), (0xAC00, 0xD7B0), (0xF900, 0xFB00), (0x20000, 0x40000))


class WordList:
    """Terms that are refused, and longer phrases that are allowed all the same; immutable."""

    def __init__(self, refused: Iterable[str] = (), allowed: Iterable[str] = ()) -> None:
        self._refused, self._allowed = _Finder(refused), _Finder(allowed)

    def __len__(self) -> int:
        return len(self._refused.terms)

    @classmethod
    def read(cls, path: Path) -> "WordList":
        """Raises `InvalidRequestError` naming the line at fault, never what stands in it."""
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise _wrong(path, f"{error.strerror}; check the path") from error
        except UnicodeDecodeError as error:
            raise _wrong(path, f"byte {error.start} is not UTF-8; save the file as UTF-8") from None
        refused: dict[str, int] = {}
        allowed: dict[str, int] = {}
        for number, line in enumerate(text.split("\n"), 1):
            content = line.strip()
            if content and not content.startswith("#"):
                kind = allowed if content.startswith("!") else refused
                kind.setdefault(_checked_term(path, number, content.removeprefix("!")), number)
        if len(refused) + len(allowed) > MOST_TERMS:
            raise _wrong(path, f"{len(refused) + len(allowed)} terms; allowed are {MOST_TERMS}")
        for term in refused.keys() & allowed.keys():
            lines = f"line {refused[term]} refuses what line {allowed[term]} allows"
            raise _wrong(path, f"{lines}; an exception is longer than its term")
        return cls(refused, allowed)

    def refuses(self, text: str) -> bool:
        """Whether a term stands in the text, as a whole word and outside of every exception."""
        if not self._refused.terms:
            return False
        folded = fold(text)
        found = [span for span in self._refused.spans(folded) if not _cuts_a_word(folded, *span)]
        allowed = list(self._allowed.spans(folded)) if found else []
        return any(not any(a <= start and end <= z for a, z in allowed) for start, end in found)


class Words:
    """The word list in force, exchanged as a whole; without a file it refuses nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._reloading = threading.Lock()
        self.current = WordList() if path is None else WordList.read(path)

    def reload(self) -> int:
        """Read the file again; how many terms it has. What is raised leaves the old list."""
        with self._reloading:
            if self._path is not None:
                self.current = WordList.read(self._path)
            return len(self.current)


class _Finder:
    """Finds terms in a text; only places where one may begin are looked at."""

    def __init__(self, terms: Iterable[str]) -> None:
        self.terms = {fold(term) for term in terms}
        lengths: dict[str, set[int]] = {}
        for term in self.terms:
            lengths.setdefault(term[0], set()).add(len(term))
        self._lengths = lengths

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """[start, end) of every term in the folded text."""
        for start, character in enumerate(text):
            for length in self._lengths.get(character, ()):
                end = start + length
                if end <= len(text) and text[start:end] in self.terms:
                    yield start, end


def fold(text: str) -> str:
    """What texts that look alike have in common."""
    shown = "".join(c for c in text if not _is_invisible(c))
    normal = unicodedata.normalize("NFKC", shown).casefold().translate(simplified_characters())
    return " ".join(normal.split())


def _is_invisible(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or unicodedata.category(character) == "Cf"


def _cuts_a_word(text: str, start: int, end: int) -> bool:
    return _joined(text, start) or _joined(text, end)


def _joined(text: str, place: int) -> bool:
    return 0 < place < len(text) and _spells(text[place - 1]) and _spells(text[place])


def _spells(character: str) -> bool:
    code = ord(character)
    return character.isalnum() and not any(first <= code < end for first, end in _UNSPACED)


def _checked_term(path: Path, number: int, text: str) -> str:
    term = fold(text)
    if not term or len(term) > _LONGEST_TERM:
        raise _wrong(path, f"line {number}: a term has 1 to {_LONGEST_TERM} characters to be seen")
    return term


def _wrong(path: Path, reason: str) -> InvalidRequestError:
    return InvalidRequestError("word_list", f"{path}: {reason}")
