"""What a process that runs for weeks keeps, and what its garbage collector looks through."""

import contextlib
import ctypes
import gc

_M_ARENA_MAX = -8  # of glibc's <malloc.h>


def use_one_arena() -> None:
    """Have all threads of this process share one heap; call it before they start.

    By default each thread gets one of its own, which keeps the most that this thread ever needed:
    a server's memory climbs for hours, and 55 MiB an hour were measured. What is shared is rarely
    waited for, since Python runs one thread at a time. Does nothing where there is no glibc.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def keep_what_is_there() -> None:
    """Have the garbage collector pass by all that there is now: modules and models stay.

    Looking through them stops every thread for up to half a second, and touches each page of what
    a process shares with the one that it was forked from.
    """
    gc.collect()
    gc.freeze()
