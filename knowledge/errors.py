"""What can go wrong in the knowledge room.

KnowledgeError
├── InvalidInputError (ValueError)      an argument or a vector array is out of range
├── FormatError (ValueError)            an input file is not in the format that was named
├── UnknownEntityError (LookupError)    no entity has this key or id
├── BuildError (OSError)                a version could not be written; nothing half-written stays
└── VersionError                        a version on disk cannot be used
    ├── MissingVersionError             there is no version at this place
    ├── DamagedVersionError             a file is missing, truncated or changed
    └── IncompatibleVersionError        written in a format, or under a name, that does not fit
"""

from pathlib import Path


class KnowledgeError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidInputError(KnowledgeError, ValueError):
    """An argument is outside what is allowed."""


class FormatError(KnowledgeError, ValueError):
    """An input file cannot be read as the named format. `path` and `line` (from 1) say where."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(f"{path}, line {line}: {problem}")
        self.path = path
        self.line = line


class UnknownEntityError(KnowledgeError, LookupError):
    """No entity of this version has the key or id in `entity`."""

    def __init__(self, entity: object, version: str) -> None:
        super().__init__(
            f"unknown entity {entity!r} in knowledge version {version}; "
            "give a key of the graph or an id from 0 to its size - 1"
        )
        self.entity = entity


class BuildError(KnowledgeError, OSError):
    """Writing a version or `CURRENT` failed; what was there before still holds."""


class VersionError(KnowledgeError):
    """A version cannot be used. `path` is the file or directory at fault."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class MissingVersionError(VersionError):
    """The path holds no version, or `CURRENT` names one that is not there."""


class DamagedVersionError(VersionError):
    """A file of the version is missing, truncated, or differs from its checksum."""


class IncompatibleVersionError(VersionError):
    """The version has another format number or another name than expected."""
