"""Adapters of a loaded model: many in memory, one in the weights for as long as a call takes.

The change is added to the *same* parameter tensors and taken back by copying what was there: so
the model is the base's to the bit again, graphs that `torch.compile` made of the networks stay
valid (weights are their inputs), and drawing costs nothing more than without an adapter. Adding the
change takes milliseconds; a branch in every layer would cost that in every step.

Calls of several threads that want the same change are drawn together; others wait at a gate.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from rapid_diffusion.checkpoints.adapter import AdapterCard, Changes, base_of, read_adapter
from rapid_diffusion.denoising.compiled import has_folded_weights
from rapid_diffusion.errors import CheckpointError, InvalidRequestError
from rapid_diffusion.gate import Gate, Undo
from rapid_diffusion.model_folder import Model
from rapid_diffusion.request import check_adapter


@dataclass(frozen=True, eq=False)
class Loaded:
    """The change of one adapter. Equals itself only: an adapter loaded anew is another one."""

    changes: Changes


#: What is in the weights (a change and its scale), and how often that has changed.
InPlace = tuple[tuple[Loaded, float], int]
_NOTHING = Loaded({}), 1.0


class Adapters:
    """The adapters of one model, by the names they were loaded under."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.cards: dict[str, AdapterCard] = {}
        self._loaded: dict[str, Loaded] = {}
        self._gate = Gate()
        #: Read at any time by any thread; None while the weights change.
        self.in_place: InPlace | None = _NOTHING, 0
        self._moves = 0

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What an adapter may change, by the folder it lies in."""
        denoiser = self.model.denoiser
        drafts = {} if denoiser.draft is None else {"draft": denoiser.draft}
        return {"unet": denoiser.network, **drafts, "text_encoder": self.model.text_encoder}

    def load(self, path: Path, name: str | None, folder: Path | None) -> str:
        """Read an adapter of the model in `folder`; one of the same name is replaced.

        Raises `CheckpointError`, or `InvalidRequestError` (field `name`) for a blank name.
        """
        if folder is None:
            raise CheckpointError(path, "this model was never on disk; save it and open it first")
        base = base_of(folder, self.model.card.name)
        card, changes = read_adapter(path, base, self.networks)
        called = card.name if name is None else name
        if not isinstance(called, str) or not called.strip():
            raise InvalidRequestError("name", f"{called!r}; a name that is not blank is wanted")
        self.cards[called], self._loaded[called] = card, Loaded(changes)
        return called

    @contextmanager
    def applied(self, name: str | None, scale: float = 1.0) -> Iterator[None]:
        """Inside the block the networks are changed by `scale` times the adapter, if one is named.

        Waits for calls of other threads that want another change, in the order they came. Raises
        `InvalidRequestError` (field `adapter`) where the networks cannot be changed.
        """
        loaded = self._checked(name)
        # The change itself, not its name: an adapter may be loaded anew under it.
        key = None if loaded is None else (loaded, scale)
        with self._gate.entered(key, partial(self._change, loaded, scale)):
            yield

    def _change(self, loaded: Loaded | None, scale: float) -> Undo:
        """Add a change to the weights; what is returned puts back what was there."""
        if loaded is None:
            return lambda: None
        networks = self.networks
        parameters = [
            (networks[part].get_parameter(f"{module}.weight"), change)
            for part, modules in loaded.changes.items()
            for module, change in modules.items()
        ]
        before = [parameter.detach().clone() for parameter, _ in parameters]

        # Through `data`, which leaves the parameters' own count of changes alone: whoever looks
        # at that need not begin anew for each adapter.
        def undo() -> None:
            self._moves, self.in_place = self._moves + 1, None
            for (parameter, _), value in zip(parameters, before, strict=True):
                parameter.data.copy_(value)
            self.in_place = _NOTHING, self._moves

        self._moves, self.in_place = self._moves + 1, None
        try:
            with torch.no_grad():
                for parameter, change in parameters:
                    changed = parameter.float() + scale * change.change(parameter)
                    parameter.data.copy_(changed)
        except BaseException:
            undo()
            raise
        self.in_place = (loaded, scale), self._moves
        return undo

    def _checked(self, name: str | None) -> Loaded | None:
        if name is None:
            return None
        check_adapter(name, None, list(self.cards))
        networks = (self.model.denoiser, *self.networks.values())
        if any(has_folded_weights(network) for network in networks):
            raise InvalidRequestError(
                "adapter",
                f"{name!r} cannot be used: the networks are compiled with their weights folded in; "
                "compile them with freeze=False (`rapid-diffusion compile --weights outside`)",
            )
        return self._loaded[name]


class TakesAdapters:
    """The part of a pipeline that has to do with adapters."""

    folder: Path | None
    _adapters: Adapters

    @property
    def adapters(self) -> Mapping[str, AdapterCard]:
        """The adapters that are loaded: the name each is asked for by, and its card."""
        return MappingProxyType(self._adapters.cards)

    def load_adapter(self, path: str | Path, name: str | None = None) -> str:
        """Read an adapter folder of `rapid-diffusion finetune` and return what calls ask for.

        That is `name`, or what its card is called. It changes nothing until a call names it. Raises
        `CheckpointError` where it is damaged, or was trained on another model than this one (both
        are named).
        """
        return self._adapters.load(Path(path), name, self.folder)
