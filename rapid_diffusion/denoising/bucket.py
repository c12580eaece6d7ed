"""The pictures of one size: who waits, who is under way, and one call of the denoiser a step."""

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
    """A picture under way: its numbers and noise, and its rows of each tensor (N, …).

    `place` is its first row in the call that it takes part in; a paused one keeps what it had.
    """

    ticket: Ticket
    numbers: Any  # float32 (steps, 8)
    noise: Iterator[Tensor] | None
    state: dict[str, Tensor] = field(repr=False)
    place: int = 0

    @property
    def slots(self) -> slice:
        """Its rows in the call: the sentence's, then the negative one's."""
        return slice(self.place, self.place + len(self.ticket.request.sentences))

    @property
    def ends(self) -> bool:
        """Whether the last step is done."""
        return self.ticket.step == len(self.numbers)


class Bucket:
    """Rows of one size (C, h, w, L, D), whatever their samplers, steps, guidance and seeds are.

    With `rows` a number, every call has exactly that many: a row's arithmetic is then the same
    whoever its neighbours are. Rows that nobody has are zeros. With "fit", a call has the rows
    there are. Of those who do not all fit into a call, the ones that are due first take part; the
    others keep what they have, and go on later.
    """

    def __init__(self, network: Network, key: tuple[int, ...], rows: Rows, device: Any) -> None:
        self.network, self.rows, self.device = network, rows, device
        self.line: list[Ticket] = []
        self.company: list[Seat] = []
        self.concerned: list[Ticket] = []  # by an error, should one be raised now
        self._seats: dict[Ticket, Seat] = {}
        self._drafts_of = network.drafts if isinstance(network, Denoiser) else None
        channels, height, width, length, dimension = key
        self._shapes: dict[str, tuple[int, ...]] = {
            "latents": (channels, height, width),
            "previous": (channels, height, width),
            "hidden": (length, dimension),
            "mask": (length,),
            "guidance": (1, 1, 1),
            "bad": (),
        }
        if isinstance(network, Denoiser) and network.draft is not None:
            self._shapes["drafts"] = (network.draft.channels, height, width)
        self._state = dict[str, Tensor]()

    def __len__(self) -> int:
        return len(self.line)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the latents."""
        _, height, width = self._shapes["latents"]
        return height, width

    @property
    def slots(self) -> int:
        """How many rows the call has."""
        return len(self._state["bad"])

    @property
    def taken(self) -> int:
        """How many of them somebody has."""
        return sum(len(seat.ticket.request.sentences) for seat in self.company)

    def add(self, ticket: Ticket) -> None:
        """Take its place in the line, by when it is due."""
        insort(self.line, ticket, key=lambda one: one.due)

    def leave(self, gone: Callable[[Ticket], bool]) -> list[Ticket]:
        """Take out, waiting or under way, every ticket that is `gone`."""
        left = [ticket for ticket in self.line if gone(ticket)]
        for ticket in left:
            self.line.remove(ticket)
            self._seats.pop(ticket, None)
        return left

    def join(self) -> None:
        """Choose who takes part in the next call, and bring their rows together."""
        chosen = self._chosen()
        for ticket in chosen:
            if ticket not in self._seats:
                self.concerned = [ticket]
                self._seats[ticket] = self._sit_down(ticket)
        self.concerned = chosen
        company = [self._seats[ticket] for ticket in chosen]
        if company != self.company:
            self._gather(company)

    def step(self) -> list[Seat]:
        """One call of the network for the company; those that have done their last step."""
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
        state["bad"] |= ~torch.isfinite(latents).flatten(1).all(1)
        state["latents"], state["previous"] = latents, clean
        for seat in self.company:
            seat.ticket.step += 1
            seat.ticket.latents = latents[seat.place]
        return [seat for seat in self.company if seat.ends]

    def release(self, seats: list[Seat]) -> list[bool]:
        """Let rows go that are at their end; for each whether it met a NaN or an infinity."""
        if not seats:
            return []
        bad: list[bool] = self._state["bad"][[seat.place for seat in seats]].tolist()
        for seat in seats:
            # A storage of its own, not the whole batch's.
            seat.ticket.latents = self._state["latents"][seat.place].clone()
        self.leave(lambda ticket: any(ticket is seat.ticket for seat in seats))
        return bad

    def estimate(self, seat: Seat) -> Tensor:
        """The clean estimate (C, h, w) of the last step."""
        return self._state["previous"][seat.place].clone()

    def _chosen(self) -> list[Ticket]:
        """As many of the line as a call has rows for; who is due first goes first."""
        free, chosen = FIT_LIMIT if self.rows == "fit" else int(self.rows), list[Ticket]()
        for ticket in self.line:
            needed = len(ticket.request.sentences)
            if needed <= free:
                chosen.append(ticket)
                free -= needed
            if not free:
                break
        return chosen

    def _gather(self, company: Sequence[Seat]) -> None:
        """The rows of `company` behind each other, after its predecessors took theirs home."""
        for seat in self.company:
            seat.state = {name: tensor[seat.slots] for name, tensor in self._state.items()}
        self.company, self._state = [], {}
        taken = sum(len(seat.ticket.request.sentences) for seat in company)
        parts = [seat.state for seat in company]
        if self.rows != "fit" and taken < self.rows:
            parts.append(self._blank(self.rows - taken))
        state = {name: torch.cat([part[name] for part in parts]) for name in self._shapes}
        place = 0
        for seat in company:
            seat.place, place = place, place + len(seat.ticket.request.sentences)
        self.company, self._state = list(company), state

    def _numbers(self) -> Tensor:
        """The present row of each picture's table, (rows, 8); zeros where nobody sits."""
        numbers = np.zeros((self.slots, len(SamplerRow._fields)), np.float32)
        for seat in self.company:
            numbers[seat.slots] = seat.numbers[seat.ticket.step]
        return torch.from_numpy(numbers).to(self.device, non_blocking=True)

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """For each row, the rows of its sentence and of its negative one (else its own)."""
        pairs = np.tile(np.arange(self.slots), (2, 1))
        for seat in self.company:
            pairs[0, seat.slots], pairs[1, seat.slots] = seat.place, seat.slots.stop - 1
        positive, negative = torch.from_numpy(pairs).to(self.device, non_blocking=True)
        return positive, negative

    def _add_noise(self, latents: Tensor) -> None:
        """The last term of a step, for the rows that have it."""
        for seat in self.company:
            s = float(seat.numbers[seat.ticket.step, _S])
            if seat.noise is not None and s != 0.0:
                latents[seat.slots] += s * next(seat.noise).to(self.device, non_blocking=True)

    def _sit_down(self, ticket: Ticket) -> Seat:
        """Its tensors before the first step."""
        request = ticket.request
        state, noise = self._blank(len(request.sentences)), None
        if request.table.is_stochastic and request.seed is not None:
            noise = noise_stream(request.seed, tuple(request.latents.shape))
            next(noise)  # the noise it began with
        state["latents"][:] = request.latents.to(self.device)
        state["guidance"][:] = 1.0 if request.guidance is None else request.guidance.scale
        for row, states in enumerate(request.sentences):
            missing = state["mask"].shape[1] - len(states.mask)
            hidden = functional.pad(states.hidden, (0, 0, 0, missing)).to(self.device)
            state["hidden"][row] = hidden
            state["mask"][row] = functional.pad(states.mask, (0, missing))
            # One sentence at a time: beside others its draft could round in another way.
            drafts = None if self._drafts_of is None else self._drafts_of(hidden[None])
            if drafts is not None:
                state["drafts"][row] = drafts[0]
        return Seat(ticket, request.table.numbers().astype(np.float32), noise, state)

    def _blank(self, rows: int) -> dict[str, Tensor]:
        """Rows of nobody; a row that may look nowhere would give NaN."""
        kinds = {"mask": torch.bool, "bad": torch.bool}
        return {
            name: torch.full(
                (rows, *shape),
                name == "mask",
                dtype=kinds.get(name, torch.float32),
                device=self.device,
            )
            for name, shape in self._shapes.items()
        }
