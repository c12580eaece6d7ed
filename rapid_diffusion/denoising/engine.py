"""Requests become rows of one batch; each step is one call of the denoiser for all of them.

Timestep, guidance and sampler are numbers of a row, so rows of other requests join and leave at
any step. See docs/engine.md.
"""

import copy
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rapid_diffusion.denoising.bucket import FIT_LIMIT, Bucket, Network, Rows, Seat
from rapid_diffusion.denoising.rows import Guidance, RowRequest, Ticket, noise_stream, row_noise
from rapid_diffusion.denoising.samplers import SamplerTable
from rapid_diffusion.errors import InvalidRequestError, NumericalError
from rapid_diffusion.text.encoder import TextStates

__all__ = [
    "FIT_LIMIT",
    "Engine",
    "Guidance",
    "RowRequest",
    "Rows",
    "StepCallback",
    "Ticket",
    "denoise",
    "noise_stream",
    "row_noise",
]

#: Called after each step with (step from 0, number of steps, latents of the rows that moved).
StepCallback = Callable[[int, int, Tensor], None]

ADVICE = (
    "use dtype=torch.float32, and if that is so already, check the weights with "
    "`rapid-diffusion doctor`"
)


class Engine:
    """Denoises pictures of any number of callers together, one bucket for each size.

    `rows`: how many rows every call of the denoiser has (at least 2 for guidance), or "fit": as
    many as there are, up to 16. With a number, a picture's latents depend on its own request and
    that number, to the bit; with "fit" also on how many rows were there.

    One thread calls `step`; any thread may `submit`, and `cancel` a ticket.
    """

    def __init__(self, denoiser: Network | nn.Module, rows: Rows = 8) -> None:
        if rows != "fit" and not (isinstance(rows, int) and rows >= 1):
            raise InvalidRequestError("rows", f"{rows!r}; allowed: 'fit', or 1 and more")
        self.denoiser, self.rows = denoiser, rows
        self._buckets: dict[tuple[object, ...], Bucket] = {}
        self._arrived: list[Ticket] = []
        self._lock = threading.Lock()
        self._precise: Network | None = None

    @property
    def busy(self) -> bool:
        """Whether a row is on its way or waits."""
        with self._lock:
            return bool(self._arrived) or any(map(len, self._buckets.values()))

    def submit(self, request: RowRequest) -> Ticket:
        """Take a picture in; it joins at the next step boundary with enough free rows."""
        needed = len(request.sentences)
        if self.rows != "fit" and needed > self.rows:
            raise InvalidRequestError(
                "rows", f"{self.rows}; a guided picture takes {needed}, give the engine as many"
            )
        ticket = Ticket(request)
        with self._lock:
            self._arrived.append(ticket)
        return ticket

    @torch.inference_mode()
    def step(self) -> list[Ticket]:
        """One step of every row there is; the tickets that ended, one way or another.

        An error of the denoiser itself is raised, and its rows are where they were.
        """
        with self._lock:
            arrived, self._arrived = self._arrived, []
            for ticket in arrived:
                self._bucket(ticket).waiting.append(ticket)
        ended = []
        for bucket in list(self._buckets.values()):
            ended += self._canceled(bucket)
            bucket.join()
            if bucket.seats:
                ended += self._ended(bucket, bucket.step())
        if self._precise is not None and not any(
            len(bucket) for (_, precise), bucket in self._buckets.items() if precise
        ):
            self._forget_precise()
        return ended

    def run(self) -> None:
        """Step until nothing is left to do."""
        while self.busy:
            self.step()

    def _bucket(self, ticket: Ticket) -> Bucket:
        request = ticket.request
        key = request.key, ticket.retried
        if key not in self._buckets:
            network = self._in_float32() if ticket.retried else self.denoiser
            bucket = Bucket(network, request.key, self.rows, request.latents.device)
            self._buckets[key] = bucket
        return self._buckets[key]

    def _canceled(self, bucket: Bucket) -> list[Ticket]:
        gone = bucket.leave(lambda ticket: ticket.canceled)
        for ticket in gone:
            ticket.end(ticket.canceled_error())
        return gone

    def _ended(self, bucket: Bucket, last: list[Seat]) -> list[Ticket]:
        """Hand out what is finished, show previews, and give a NaN its second chance."""
        failed = [seat.ticket for seat in bucket.seats if not _show(bucket, seat)]
        last = [seat for seat in last if not seat.ticket.done]
        ended = bucket.leave(lambda ticket: ticket in failed)
        for seat, is_bad in zip(last, bucket.release(last), strict=True):
            ticket = seat.ticket
            if is_bad and not ticket.retried and self._can_be_more_precise:
                ticket.retried, ticket.step = True, 0
                self._bucket(ticket).waiting.append(ticket)
                continue
            ticket.end(
                NumericalError(f"the model gave NaN or infinity; {ADVICE}") if is_bad else None
            )
            ended.append(ticket)
        return ended

    @property
    def _can_be_more_precise(self) -> bool:
        weights = self.denoiser.parameters() if isinstance(self.denoiser, nn.Module) else ()
        return any(w.dtype in (torch.float16, torch.bfloat16) for w in weights)

    def _in_float32(self) -> Network:
        """The same weights, calculating in float32; a copy that lives while it is needed."""
        if self._precise is None:
            assert isinstance(self.denoiser, nn.Module)
            self._precise = copy.deepcopy(self.denoiser).float()
        return self._precise

    def _forget_precise(self) -> None:
        self._precise = None
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if not key[1]}


def _show(bucket: Bucket, seat: Seat) -> bool:
    """Call the previews that were asked for; False where one failed, and its row with it."""
    ticket = seat.ticket
    while ticket.previews:
        try:
            ticket.previews.pop(0)(bucket.estimate(seat))
        except Exception as error:  # noqa: BLE001 - the caller's own; neighbours must not fall
            ticket.end(error)
            return False
    return True


def denoise(
    denoiser: Network | nn.Module | Engine,
    noise: Tensor,
    states: TextStates,
    table: SamplerTable,
    guidance: Guidance | None = None,
    callback: StepCallback | None = None,
    seeds: Sequence[int] | None = None,
) -> Tensor:
    """noise (B, C, h, w) and the states of B sentences -> clean latents (B, C, h, w).

    `denoiser` is one, or an engine that has one; without an engine, all rows share each call.
    `seeds` are those of the rows' noise: a sampler that adds noise goes on with them.
    `callback` may raise to stop the run. Raises `NumericalError` where a NaN or an infinity comes
    out, naming the rows.
    """
    engine = denoiser if isinstance(denoiser, Engine) else Engine(denoiser, rows="fit")
    tickets = [
        engine.submit(
            RowRequest(
                row if table.start == 1.0 else table.start * row,
                _sentence(states, place),
                table,
                guidance and Guidance(guidance.scale, _sentence(guidance.negative, place)),
                None if seeds is None else seeds[place],
            )
        )
        for place, row in enumerate(noise)
    ]
    try:
        while not all(ticket.done for ticket in tickets):
            before = [ticket.step for ticket in tickets]
            engine.step()
            if callback is not None:
                _tell(callback, tickets, before)
    finally:
        for ticket in tickets:
            ticket.cancel()
    return torch.stack(_results(tickets))


def _sentence(states: TextStates, place: int) -> TextStates:
    return TextStates(states.hidden[place], states.mask[place])


def _tell(callback: StepCallback, tickets: list[Ticket], before: list[int]) -> None:
    """Rows that moved, together where they are at the same step."""
    moved = [t for t, step in zip(tickets, before, strict=True) if t.step > step]
    for step in sorted({ticket.step for ticket in moved}):
        rows = [t.latents for t in moved if t.step == step and t.latents is not None]
        if rows:
            callback(step - 1, len(moved[0].request.table), torch.stack(rows))


def _results(tickets: list[Ticket]) -> list[Tensor]:
    """Their latents, or the error that ended one of them."""
    errors = {place: t.error for place, t in enumerate(tickets) if t.error is not None}
    bad = [place for place, error in errors.items() if isinstance(error, NumericalError)]
    if bad:
        raise NumericalError(f"the model gave NaN or infinity in rows {bad}; {ADVICE}")
    for error in errors.values():
        raise error
    return [ticket.latents for ticket in tickets if ticket.latents is not None]
