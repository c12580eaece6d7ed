"""The rows of one size: tensors with a slot for each row, and one call of the denoiser a step."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rapid_diffusion.denoising.denoiser import Denoiser
from rapid_diffusion.denoising.rows import Ticket, noise_stream
from rapid_diffusion.denoising.samplers import SamplerRow

#: (rows, timesteps, hidden, mask[, drafts]) -> output; a `Denoiser` or something that looks so.
Network = Callable[..., Tensor]
Rows = int | Literal["fit"]

#: As many rows as "fit" lets into one call: eight guided pictures.
FIT_LIMIT = 16
_TIMESTEP, _SCALE, _S = (SamplerRow._fields.index(name) for name in ("timestep", "scale", "s"))


@dataclass(eq=False)
class Seat:
    """A ticket's slots (its sentence's, then the negative one's), numbers and noise."""

    ticket: Ticket
    slots: list[int]
    numbers: Any  # float32 (steps, 8)
    noise: Iterator[Tensor] | None

    @property
    def ends(self) -> bool:
        """Whether the last step is done."""
        return self.ticket.step == len(self.numbers)


class Bucket:
    """Rows of one size (C, h, w, L, D), whatever their samplers, steps, guidance and seeds are.

    With `rows` a number, every call has exactly that many: a row's arithmetic is then the same
    whoever its neighbours are. Slots that nobody has hold zeros. With "fit", a call has the rows
    there are.
    """

    def __init__(self, network: Network, key: tuple[int, ...], rows: Rows, device: Any) -> None:
        self.network, self.rows, self.device = network, rows, device
        self.waiting: deque[Ticket] = deque()
        self.seats: list[Seat] = []
        self.sitting_down: Ticket | None = None
        self._drafts_of = network.drafts if isinstance(network, Denoiser) else None
        channels, height, width, length, dimension = key
        shapes: dict[str, tuple[int, ...]] = {
            "latents": (channels, height, width),
            "previous": (channels, height, width),
            "hidden": (length, dimension),
            "mask": (length,),
            "guidance": (1, 1, 1),
        }
        if isinstance(network, Denoiser) and network.draft is not None:
            shapes["drafts"] = (channels, height, width)
        self._shapes, self._state = shapes, dict[str, Tensor]()
        self._bad = torch.zeros(0, dtype=torch.bool, device=device)
        self._resize([], 0 if rows == "fit" else int(rows))

    def __len__(self) -> int:
        return len(self.waiting) + len(self.seats)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the latents."""
        _, height, width = self._shapes["latents"]
        return height, width

    @property
    def slots(self) -> int:
        """How many rows a call has."""
        return len(self._bad)

    @property
    def taken(self) -> int:
        """How many of them somebody has."""
        return sum(len(seat.slots) for seat in self.seats)

    @property
    def tickets(self) -> list[Ticket]:
        """All, those who wait first."""
        return [*self.waiting, *(seat.ticket for seat in self.seats)]

    def leave(self, gone: Callable[[Ticket], bool]) -> list[Ticket]:
        """Take out, waiting or seated, every ticket that is `gone`."""
        left = [ticket for ticket in self.tickets if gone(ticket)]
        if left:
            self.waiting = deque(t for t in self.waiting if t not in left)
            for seat in [seat for seat in self.seats if seat.ticket in left]:
                self._stand_up(seat)
        return left

    def join(self) -> None:
        """Give slots to those who wait, first come first served."""
        taken = self.taken
        limit, coming = FIT_LIMIT if self.rows == "fit" else int(self.rows), list[Ticket]()
        for ticket in self.waiting:
            if taken + len(ticket.request.sentences) > limit:
                break
            coming.append(ticket)
            taken += len(ticket.request.sentences)
        if self.rows == "fit" and taken != len(self._bad):
            self._close_ranks(taken)
        free = iter(sorted(set(range(len(self._bad))).difference(*(s.slots for s in self.seats))))
        for ticket in coming:
            self.sitting_down = ticket
            slots = list(islice(free, len(ticket.request.sentences)))
            self.seats.append(self._sit_down(ticket, slots))
            self.waiting.popleft()
        self.sitting_down = None

    def step(self) -> list[Seat]:
        """One call of the network for all rows; the seats that have done their last step."""
        state, numbers = self._state, self._numbers()
        columns = numbers.T.reshape(-1, len(numbers), 1, 1, 1)
        scale, skip, out, a, b, c, _ = columns[_SCALE:]
        conditions = [state[name] for name in ("hidden", "mask", "drafts") if name in state]
        output = self.network(scale * state["latents"], numbers[:, _TIMESTEP], *conditions)
        positive, negative = (output.index_select(0, index) for index in self._pairs())
        output = negative + state["guidance"] * (positive - negative)
        clean = skip * state["latents"] + out * output
        latents = a * state["latents"] + b * clean + c * state["previous"]
        self._add_noise(latents)
        # Looked at when a row ends: a look at every step would wait for the device.
        self._bad |= ~torch.isfinite(latents).flatten(1).all(1)
        state["latents"], state["previous"] = latents, clean
        for seat in self.seats:
            seat.ticket.step += 1
            seat.ticket.latents = latents[seat.slots[0]]
        return [seat for seat in self.seats if seat.ends]

    def release(self, seats: list[Seat]) -> list[bool]:
        """Free the seats of rows at their end; for each whether it met a NaN or an infinity."""
        if not seats:
            return []
        bad: list[bool] = self._bad[[seat.slots[0] for seat in seats]].tolist()
        for seat in seats:
            final = self._state["latents"][seat.slots[0]]
            seat.ticket.latents = final.clone()  # the slot's own storage, not the whole batch's
            self._stand_up(seat)
        return bad

    def estimate(self, seat: Seat) -> Tensor:
        """The clean estimate (C, h, w) of the last step."""
        return self._state["previous"][seat.slots[0]].clone()

    def _numbers(self) -> Tensor:
        """The present row of each slot's table, (rows, 8); zeros where nobody sits."""
        numbers = np.zeros((len(self._bad), len(SamplerRow._fields)), np.float32)
        for seat in self.seats:
            numbers[seat.slots] = seat.numbers[seat.ticket.step]
        return torch.from_numpy(numbers).to(self.device, non_blocking=True)

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """For each slot, the slots of its sentence and of its negative one (else its own)."""
        pairs = np.tile(np.arange(len(self._bad)), (2, 1))
        for seat in self.seats:
            pairs[0, seat.slots], pairs[1, seat.slots] = seat.slots[0], seat.slots[-1]
        positive, negative = torch.from_numpy(pairs).to(self.device, non_blocking=True)
        return positive, negative

    def _add_noise(self, latents: Tensor) -> None:
        """The last term of a step, for the rows that have it."""
        for seat in self.seats:
            s = float(seat.numbers[seat.ticket.step, _S])
            if seat.noise is not None and s != 0.0:
                latents[seat.slots] += s * next(seat.noise).to(self.device, non_blocking=True)

    def _sit_down(self, ticket: Ticket, slots: list[int]) -> Seat:
        request, state = ticket.request, self._state
        noise = None
        if request.table.is_stochastic and request.seed is not None:
            noise = noise_stream(request.seed, tuple(request.latents.shape))
            next(noise)  # the noise it began with
        numbers = request.table.numbers().astype(np.float32)
        state["latents"][slots] = request.latents.to(state["latents"])
        state["previous"][slots] = 0.0
        state["guidance"][slots] = 1.0 if request.guidance is None else request.guidance.scale
        self._bad[slots] = False
        for slot, states in zip(slots, request.sentences, strict=True):
            missing = state["mask"].shape[1] - len(states.mask)
            hidden = functional.pad(states.hidden, (0, 0, 0, missing)).to(self.device)
            state["hidden"][slot] = hidden
            state["mask"][slot] = functional.pad(states.mask, (0, missing))
            # One sentence at a time: beside others its draft could round in another way.
            drafts = None if self._drafts_of is None else self._drafts_of(hidden[None])
            if drafts is not None:
                state["drafts"][slot] = drafts[0]
        return Seat(ticket, slots, numbers, noise)

    def _stand_up(self, seat: Seat) -> None:
        """Leave zeros, so that a padding row is never a NaN that was."""
        self.seats.remove(seat)
        for name, tensor in self._state.items():
            tensor[seat.slots] = name == "mask"

    def _close_ranks(self, rows: int) -> None:
        """Those who are seated move to the first slots, of `rows` in all."""
        kept = [slot for seat in self.seats for slot in seat.slots]
        self._resize(kept, rows)
        places = iter(range(rows))
        for seat in self.seats:
            seat.slots = list(islice(places, len(seat.slots)))

    def _resize(self, kept: list[int], rows: int) -> None:
        old, old_bad = self._state, self._bad
        self._state = {}
        for name, shape in self._shapes.items():
            kind = torch.bool if name == "mask" else torch.float32
            # A row that may look nowhere would give NaN.
            blank = torch.full((rows, *shape), name == "mask", dtype=kind, device=self.device)
            if kept:
                blank[: len(kept)] = old[name][kept]
            self._state[name] = blank
        self._bad = torch.zeros(rows, dtype=torch.bool, device=self.device)
        if kept:
            self._bad[: len(kept)] = old_bad[kept]
