"""Seeds for torch's CPU generator, which looks at the lower 32 bits of what it is given."""

import hashlib

_SEEN = 2**32


def mixed_seed(*parts: object) -> int:
    """32 bits from several numbers or words: sums and shifts of them would collide.

    The first four bytes (big-endian) of BLAKE2b with a digest of four bytes over the parts in
    ASCII with `/` between them.
    """
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())


def generator_seed(seed: int) -> int:
    """What the generator is given for a picture's seed: the seed itself, if it sees all of it."""
    return seed if seed < _SEEN else mixed_seed(seed)
