"""The TOML file of a fine-tuning: which model, which data, which method, how long."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, cast, get_args

from rapid_diffusion.checkpoints.folder import Storage
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.training.config import (
    DataConfig,
    LoopConfig,
    read_loops,
    read_section,
    read_toml,
)

Method = Literal["full", "lora", "text"]


@dataclass(frozen=True)
class OldConfig(DataConfig):
    """The data the model learned from: measured before and after, and rehearsed.

    `share` of every batch comes from here, so that what was known is not forgotten.
    """

    share: float = 0.25


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank changes: scale alpha / rank, on layers whose names end in one of `targets`.

    Without `targets`: every linear layer and every convolution.
    """

    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResultConfig:
    """What comes out: its name, whose work is in it, how a model folder is stored.

    `styles`: as `ModelCard` says; the base's words are not taken over, nor are they an adapter's.
    """

    name: str
    license: str = ""
    attribution: str = ""
    storage: Storage = "float16"
    styles: str = ""


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything one `rapid-diffusion finetune CONFIG` needs."""

    start: str
    method: Method
    output: str
    result: ResultConfig
    data: DataConfig
    old: OldConfig | None
    lora: LoraConfig
    loops: dict[str, LoopConfig] = field(default_factory=dict)

    def loop(self, name: str) -> LoopConfig:
        """The `[loops.NAME]` table; `InvalidRequestError` where it is missing."""
        if name not in self.loops:
            raise InvalidRequestError(f"loops.{name}", f"missing; method {self.method!r} needs it")
        return self.loops[name]


def read_finetune_config(path: Path) -> FinetuneConfig:
    """Read the file; relative folders are relative to the current directory.

    Raises `InvalidRequestError` naming the key that is unknown, missing or of the wrong type.
    """
    content = read_toml(path, [item.name for item in fields(FinetuneConfig)])
    for key in ("start", "output"):
        if not isinstance(content.get(key), str) or not content[key]:
            raise InvalidRequestError(key, f"{content.get(key)!r} in {path}; a name is wanted")
    return FinetuneConfig(
        start=content["start"],
        method=_method(content.get("method")),
        output=content["output"],
        result=read_section(ResultConfig, "result", content.get("result", {})),
        data=read_section(DataConfig, "data", content.get("data", {})),
        old=_old(content["old"]) if "old" in content else None,
        lora=_lora(content.get("lora", {})),
        loops=read_loops(content),
    )


def _method(value: object) -> Method:
    for method in get_args(Method):
        if value == method:
            return cast(Method, method)
    raise InvalidRequestError("method", f"{value!r}; allowed: {', '.join(get_args(Method))}")


def _old(values: object) -> OldConfig:
    old = read_section(OldConfig, "old", values)
    if not 0.0 <= old.share < 1.0:
        raise InvalidRequestError("old.share", f"{old.share}; allowed: 0 to less than 1")
    return old


def _lora(values: object) -> LoraConfig:
    lora = read_section(LoraConfig, "lora", values)
    if lora.rank < 1:
        raise InvalidRequestError("lora.rank", f"{lora.rank}; allowed: 1 or more")
    if not 0.0 <= lora.dropout < 1.0:
        raise InvalidRequestError("lora.dropout", f"{lora.dropout}; allowed: 0 to less than 1")
    return lora
