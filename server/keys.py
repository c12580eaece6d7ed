"""API keys: hashed at rest, compared in constant time, each with its own allowance of work.

python -m server.keys NAME [unlabelled]     a new key, and its entry for the keys file

With `unlabelled` it may have pictures without the explicit label.
"""

import hashlib
import hmac
import json
import secrets
import sys
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rapid_diffusion.errors import InvalidRequestError
from server.errors import Problem

UNLABELLED = "unlabelled"  # may have pictures without the explicit label
_CONFIG = ConfigDict(extra="forbid", frozen=True)


class Key(BaseModel):
    """One key: the SHA-256 of its text (256 random bits need no slow hash), and what it may."""

    model_config = _CONFIG

    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    seconds_per_minute: float | None = Field(
        default=None, gt=0, description="of drawing; None: no limit"
    )
    scopes: tuple[Literal["unlabelled"], ...] = ()
    weight: float = Field(default=1.0, gt=0, le=1000, description="its share of a busy device")
    embed_parameters: bool = Field(default=True, description="files say how they were drawn")


class KeyFile(BaseModel):
    """The file that `RAPID_DIFFUSION_KEYS_FILE` names."""

    model_config = _CONFIG

    keys: list[Key] = Field(min_length=1)


class Keys:
    """The keys of one server. `spend` belongs to the event loop's thread."""

    def __init__(self, keys: list[Key]) -> None:
        self._keys = keys
        self._by_name = {key.name: key for key in keys}
        self._purses = {
            key.name: _Purse(key.seconds_per_minute) for key in keys if key.seconds_per_minute
        }

    @classmethod
    def read(cls, path: Path) -> "Keys":
        """Raises `InvalidRequestError` saying what is wrong with the file, never what is in it."""
        try:
            keys = KeyFile.model_validate_json(path.read_bytes()).keys
        except OSError as error:
            raise InvalidRequestError("keys_file", f"{path}: {error.strerror}") from error
        except ValidationError as error:
            places = [".".join(map(str, e["loc"])) + ": " + e["msg"] for e in error.errors()]
            raise InvalidRequestError("keys_file", f"{path}: {'; '.join(places[:5])}") from None
        if len({key.name for key in keys}) != len(keys):
            raise InvalidRequestError("keys_file", f"{path}: every key needs a name of its own")
        return cls(keys)

    def owner(self, presented: str) -> str | None:
        """The name of the key, or None. The time taken does not depend on how much agrees."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for key in self._keys:  # all of them, whether one was found or not
            if hmac.compare_digest(key.sha256, digest):
                found = key.name
        return found

    def allows(self, owner: str, scope: str) -> bool:
        """Whether this owner's key has a scope."""
        key = self._by_name.get(owner)
        return key is not None and scope in key.scopes

    def digest(self, owner: str) -> str | None:
        """The SHA-256 of an owner's key; None where there is no such key any more."""
        key = self._by_name.get(owner)
        return None if key is None else key.sha256

    def weight(self, owner: str) -> float:
        """How large this owner's share is beside others'."""
        key = self._by_name.get(owner)
        return 1.0 if key is None else key.weight

    def embeds_parameters(self, owner: str) -> bool:
        """Whether this owner's files say how they were drawn."""
        key = self._by_name.get(owner)
        return key is None or key.embed_parameters

    def spend(self, owner: str, seconds: float) -> None:
        """Take predicted seconds of work from an owner's allowance.

        Raises `Problem` rate_limited, with the seconds until there is enough again.
        """
        purse = self._purses.get(owner)
        if purse is not None and (wait := purse.spend(seconds, time.monotonic())) > 0:
            values = {"received": round(seconds, 1), "allowed": purse.a_minute}
            raise Problem("rate_limited", values=values, retry_after=max(1.0, wait))


class _Purse:
    """Fills up to one minute's allowance; a dear request needs a full one and leaves a debt."""

    def __init__(self, a_minute: float) -> None:
        self.a_minute = a_minute
        self._held, self._looked = a_minute, time.monotonic()

    def spend(self, seconds: float, now: float) -> float:
        """0 where it was paid, else the seconds to wait."""
        earned = (now - self._looked) * self.a_minute / 60
        self._held, self._looked = min(self.a_minute, self._held + earned), now
        needed = min(seconds, self.a_minute)
        if self._held < needed:
            return (needed - self._held) * 60 / self.a_minute
        self._held -= seconds
        return 0.0


def new_key(name: str, *scopes: str) -> tuple[str, Key]:
    """A key to give away, and what is kept of it."""
    text = f"rd-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    kept = {"name": name, "sha256": digest, "scopes": scopes}
    return text, Key.model_validate(kept)


def main(arguments: list[str]) -> int:
    """Write a new key to stderr, for one person, and its entry to stdout, for the file."""
    if len(arguments) not in (1, 2) or arguments[1:] not in ([], [UNLABELLED]):
        sys.stderr.write(f"usage: python -m server.keys NAME [{UNLABELLED}]\n")
        return 2
    text, key = new_key(*arguments)
    sys.stderr.write(f"{text}\n")
    entry = key.model_dump(mode="json", exclude_defaults=True)
    sys.stdout.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
