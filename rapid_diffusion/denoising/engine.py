"""Requests become rows of one batch; each step is one call of the denoiser for all of them.

Timestep, guidance and sampler are numbers of a row, so rows of other requests join and leave at
any step. See docs/engine.md.
"""

import threading
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from rapid_diffusion.denoising.bucket import FIT_LIMIT, Bucket, Network, Rows, Seat
from rapid_diffusion.denoising.compiled import plain_copy
from rapid_diffusion.denoising.meter import Meter
from rapid_diffusion.denoising.rows import Guidance, RowRequest, Ticket, noise_stream, row_noise
from rapid_diffusion.denoising.samplers import SamplerTable
from rapid_diffusion.denoising.turns import Turns
from rapid_diffusion.errors import InvalidRequestError, NumericalError
from rapid_diffusion.precision import is_narrow, wants_float32
from rapid_diffusion.previewing import watch_of
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

#: A picture is due this many steps of the engine, for each step of its own, after it came: so
#: those who want little go first, and nobody waits for ever.
PATIENCE = 4

ADVICE = (
    "use dtype=torch.float32, and if that is so already, check the weights with "
    "`rapid-diffusion doctor`"
)


class Engine:
    """Denoises pictures of any number of callers together, one bucket for each size.

    `rows`: how many rows every call of the denoiser has (at least 2 for guidance), or "fit": as
    many as there are, up to 16. With a number, a picture's latents depend on its own request and
    that number, to the bit; with "fit" also on how many rows were there. Where there are more rows
    than a call has, those that are due first go first (`PATIENCE`), and the others go on later.

    Either one thread calls `step`, and any thread may `submit`, and `cancel` a ticket; or any
    number of threads `denoise` with it, and take `turns` at stepping.
    """

    def __init__(self, denoiser: Network | nn.Module, rows: Rows = 8) -> None:
        if rows != "fit" and not (isinstance(rows, int) and rows >= 1):
            raise InvalidRequestError("rows", f"{rows!r}; allowed: 'fit', or 1 and more")
        self.denoiser, self.rows = denoiser, rows
        self.turns = Turns(self)
        self.meter = Meter()
        self._buckets: dict[tuple[object, ...], Bucket] = {}
        self._present: tuple[object, ...] | None = None  # the bucket that is being stepped
        self._arrived: list[Ticket] = []
        self._clock = 0  # steps that were made
        self._lock = threading.Lock()
        self._precise: Network | None = None

    @property
    def busy(self) -> bool:
        """Whether a row is on its way or waits."""
        with self._lock:
            return bool(self._arrived) or any(map(len, self._buckets.values()))

    def submit(self, request: RowRequest, behind: int = 0) -> Ticket:
        """Take a picture in; it joins at the next step boundary with enough free rows.

        `behind`: so many pictures of the same caller go first. It is due as if it had all their
        steps too, so that somebody who wants one picture does not wait for eight of another.
        """
        needed = len(request.sentences)
        if self.rows != "fit" and needed > self.rows:
            raise InvalidRequestError(
                "rows", f"{self.rows}; a guided picture takes {needed}, give the engine as many"
            )
        with self._lock:
            due = self._clock + PATIENCE * len(request.table) * (behind + 1)
            ticket = Ticket(request, due, retried=self._is_precise(request))
            self._arrived.append(ticket)
        return ticket

    @torch.inference_mode()
    def step(self) -> list[Ticket]:
        """One step of every row there is; the tickets that ended, one way or another.

        An error of the denoiser itself is raised, and its rows are where they were.
        """
        self._present = None
        ended = self.sweep()
        self._clock += 1
        for key, bucket in list(self._buckets.items()):
            self._present = key
            if len(bucket):
                bucket.join()
                with self.meter.timing(bucket.size, bucket.slots, bucket.taken):
                    last = bucket.step()
                ended += self._ended(bucket, last)
        self._present = None
        self._forget_empty()
        return ended

    @torch.inference_mode()
    def sweep(self) -> list[Ticket]:
        """Take out the rows that were canceled; `step` begins with that."""
        with self._lock:
            while self._arrived:
                ticket = self._arrived.pop(0)
                self._bucket(ticket).add(ticket)
        gone = [ticket for bucket in self._buckets.values() for ticket in self._canceled(bucket)]
        self._forget_empty()
        return gone

    def fail(self, error: Exception, tickets: Iterable[Ticket] = ()) -> None:
        """After `step` raised `error`: end with it the rows that were in the call that failed.

        Those of `tickets` that got lost on their way end too. All others go on where they were.
        """
        broken = None if self._present is None else self._buckets.get(self._present)
        self._present = None
        hurt = [] if broken is None else broken.leave(broken.concerned.__contains__)
        with self._lock:
            kept = {t for bucket in self._buckets.values() for t in bucket.line}
            kept.update(self._arrived)
        for ticket in [*hurt, *tickets]:
            if ticket not in kept and not ticket.done:
                ticket.end(error)

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
        failed = [seat.ticket for seat in bucket.company if not _show(bucket, seat)]
        last = [seat for seat in last if not seat.ticket.done]
        ended = bucket.leave(lambda ticket: ticket in failed)
        for seat, is_bad in zip(last, bucket.release(last), strict=True):
            ticket = seat.ticket
            if is_bad and self._begins_again(ticket):
                continue
            ticket.end(
                NumericalError(f"the model gave NaN or infinity; {ADVICE}") if is_bad else None
            )
            ended.append(ticket)
        return ended

    def _begins_again(self, ticket: Ticket) -> bool:
        """Whether a row that met a NaN is drawn once more, in float32."""
        if ticket.retried or not self._can_be_more_precise:
            return False
        ticket.retried, ticket.step = True, 0
        self.meter.retry()
        try:
            self._bucket(ticket).add(ticket)
        except (MemoryError, torch.OutOfMemoryError):  # no room for the copy: the NaN stands
            return False
        return True

    def _is_precise(self, request: RowRequest) -> bool:
        return request.in_float32 and self._can_be_more_precise

    @property
    def _can_be_more_precise(self) -> bool:
        return isinstance(self.denoiser, nn.Module) and is_narrow(self.denoiser)

    def _in_float32(self) -> Network:
        """The same weights, calculating in float32; a copy that lives while it is needed."""
        if self._precise is None:
            assert isinstance(self.denoiser, nn.Module)
            self._precise = plain_copy(self.denoiser).float()
        return self._precise

    def _forget_empty(self) -> None:
        """Let go of what nobody needs: a bucket's tensors, and the copy in float32.

        The weights may change after that.
        """
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if len(bucket)}
        if not any(precise for _, precise in self._buckets):
            self._precise = None


def _show(bucket: Bucket, seat: Seat) -> bool:
    """Call the previews that were asked for; False where one failed, and its row with it."""
    ticket, watch = seat.ticket, seat.ticket.request.watch
    try:
        if watch is not None and ticket.step in watch.steps:
            watch.tell(ticket.step, bucket.estimate(seat))
        while ticket.previews:
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

    `denoiser` is one, or an engine that has one; without an engine, all rows share each call. Other
    threads may denoise with the same engine at the same time: rows of all share each call.
    `seeds` are those of the rows' noise: a sampler that adds noise goes on with them.
    `callback` may raise to stop the run. Raises `NumericalError` where a NaN or an infinity comes
    out, naming the rows; and what the denoiser raised in a call that had rows of this run.
    """
    engine = denoiser if isinstance(denoiser, Engine) else Engine(denoiser, rows="fit")
    requests = [
        RowRequest(
            row if table.start == 1.0 else table.start * row,
            _sentence(states, place),
            table,
            guidance and Guidance(guidance.scale, _sentence(guidance.negative, place)),
            None if seeds is None else seeds[place],
            watch_of(place),
            wants_float32(),
        )
        for place, row in enumerate(noise)
    ]
    with engine.turns.call(requests, listens=callback is not None) as call:
        while (news := engine.turns.next(call)) is not None:
            if callback is not None:
                callback(news.step - 1, len(table), news.latents)
    return torch.stack(_results(call.tickets))


def _sentence(states: TextStates, place: int) -> TextStates:
    return TextStates(states.hidden[place], states.mask[place])


def _results(tickets: list[Ticket]) -> list[Tensor]:
    """Their latents, or the error that ended one of them."""
    errors = {place: t.error for place, t in enumerate(tickets) if t.error is not None}
    bad = [place for place, error in errors.items() if isinstance(error, NumericalError)]
    if bad:
        raise NumericalError(f"the model gave NaN or infinity in rows {bad}; {ADVICE}")
    for error in errors.values():
        raise error
    return [ticket.latents for ticket in tickets if ticket.latents is not None]
