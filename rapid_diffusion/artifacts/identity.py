"""What an artifact is made for: the model's architecture, torch, the processor, the number format.

Code is compiled for the very processor (`-march=native`), so that one without its instructions
would stop the process; everything here is compared before anything is loaded.
"""

import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from rapid_diffusion.checkpoints.folder import folder_digest, json_digest, read_json
from rapid_diffusion.components import components_of
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.version import __version__

#: "outside": the artifact uses the model's weights in memory; "folded": they are part of it.
WeightPlace = Literal["outside", "folded"]
CONFIGS = ("text_encoder", "unet", "draft", "vae", "super_resolution", "image_tower")


@dataclass(frozen=True)
class MadeFor:
    """The things an artifact depends on; `digest` is empty where the weights are outside.

    `processor` are the instruction sets of a CPU, or the name and the capability of a GPU.
    """

    library: str
    torch: str
    device: str
    processor: tuple[str, ...]
    dtype: str
    weights: WeightPlace
    architecture: str
    digest: str = ""

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name the folder of such artifacts."""
        facts = asdict(self) | {"processor": _short(self.device, self.processor)}
        return json_digest(facts)[:16]

    def differences(self, made: dict[str, Any]) -> list[str]:
        """What keeps an artifact whose manifest says `made` from running here, by name."""
        here = asdict(self)
        told = [
            f"{name} is {made.get(name)!r}, here {here[name]!r}"
            for name in here
            if name != "processor" and made.get(name) != here[name]
        ]
        wanted = made.get("processor")
        missing = set(wanted) - set(self.processor) if isinstance(wanted, list) else {"processor"}
        return [*told, *([f"processor lacks {', '.join(sorted(missing))}"] if missing else [])]


def made_for(
    model: Path, device: torch.device, dtype: torch.dtype, weights: WeightPlace = "outside"
) -> MadeFor:
    """What artifacts of the model in `model` have to be made for, to run on this machine.

    Raises `CheckpointError` for a config that is missing.
    """
    return MadeFor(
        library=__version__,
        torch=str(torch.__version__),
        device=device.type,
        processor=processor_of(device),
        dtype=str(dtype).removeprefix("torch."),
        weights=weights,
        architecture=architecture_of(model),
        digest=folder_digest(model) if weights == "folded" else "",
    )


def checked_place(weights: str) -> WeightPlace:
    """One of `WeightPlace`; raises `InvalidRequestError` (field `weights`) for anything else."""
    places: tuple[WeightPlace, ...] = get_args(WeightPlace)
    for place in places:
        if place == weights:
            return place
    raise InvalidRequestError("weights", f"{weights!r}; allowed: {', '.join(places)}")


def architecture_of(model: Path) -> str:
    """`sha256:…` of the sizes of a model's components, whatever its weights are."""
    parts = components_of(model)
    files = [parts[name] / "config.json" for name in CONFIGS if parts[name].is_dir()]
    sizes = {file.parent.name: read_json(file) for file in files}
    return f"sha256:{json_digest(sizes)}"


def processor_of(device: torch.device) -> tuple[str, ...]:
    """The instruction sets of this machine's CPU, or which GPU `device` is."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return torch.cuda.get_device_name(device), f"sm_{major}{minor}"
    return tuple(sorted({*instruction_sets(), platform.machine()}))


def instruction_sets() -> list[str]:
    """Those of this CPU, as Linux spells them; none where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = re.search(r"(?m)^(?:flags|Features)\s*:(.*)$", text)
    return found[1].split() if found else []


def default_folder(name: str, made: MadeFor) -> Path:
    """Where artifacts lie unless another folder is named: below the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    plain = re.sub(r"[^\w.-]", "-", name) or "model"
    return Path(cache) / "rapid-diffusion" / "artifacts" / f"{plain}-{made.key}"


def _short(device: str, processor: tuple[str, ...]) -> list[str]:
    """Machines of one kind share artifacts; each single flag is compared when one is opened."""
    if device != "cpu":
        return list(processor)
    return [torch.backends.cpu.get_cpu_capability(), platform.machine()]
