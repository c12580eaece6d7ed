"""Attention has one door: `attention`, with one layout and one meaning of the mask.

query (B, H, L, W), key and value (B, H, K, W): batch, heads, length, width of a head. The mask is
bool and broadcasts to (B, H, L, K): True = may look. A query that may look nowhere gets zeros.

Back ends: "flash-attn" (that package: CUDA, half precision, no mask), "sdpa-flash" (PyTorch's own
kernel of FlashAttention, pinned; on CUDA as the package, on a CPU everything), "sdpa" (the kernel
that PyTorch chooses) and "plain" (five lines, the reference of all others). "auto" looks into
`PICKS`; a back end that is asked for by name and cannot serve is an error.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import product
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from rapid_diffusion.errors import InvalidRequestError, MissingDependencyError

logger = logging.getLogger(__name__)

Backend = Literal["auto", "flash-attn", "sdpa-flash", "sdpa", "plain"]

HALF = (torch.float16, torch.bfloat16)
#: The widest head that FlashAttention knows.
FLASH_WIDTH = 256


@dataclass(frozen=True)
class Case:
    """What decides between back ends."""

    device: str
    dtype: torch.dtype
    head_width: int
    has_mask: bool
    needs_gradient: bool


@dataclass(frozen=True)
class Pick:
    """A line of the table: the back ends for a kind of case, the first that can serve."""

    device: str
    backends: tuple[Backend, ...]
    fits: Callable[[Case], bool] = lambda _case: True


#: The first line that fits decides. CPU: measured, docs/engine.md ("Attention"); in half precision
#: the backward pass of PyTorch's kernel is slower there than the plain one. CUDA: not measured yet.
PICKS = (
    Pick("cpu", ("plain",), lambda case: case.needs_gradient and case.dtype in HALF),
    Pick("cpu", ("sdpa-flash", "sdpa")),
    Pick("cuda", ("flash-attn", "sdpa-flash", "sdpa")),
    Pick("", ("sdpa",)),
)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    backend: Backend = "auto",
    top_k: int | None = None,
) -> Tensor:
    """What each query sees, (B, H, L, W).

    `top_k`: look at the k best keys only (Explicit Sparse Transformer, arXiv 1912.11637), with
    the plain back end. Raises `MissingDependencyError` for a package that is not installed,
    `InvalidRequestError` for a back end that cannot do what it is asked.
    """
    if mask is not None and mask.dtype != torch.bool:
        raise InvalidRequestError("mask", f"{mask.dtype}; bool is wanted, True = may look")
    if top_k is not None:
        return _top_k_attention(query, key, value, mask, top_k, backend)
    if torch.compiler.is_compiling():  # a compiler looks into "sdpa" itself, and not into packages
        return _FUNCTIONS["sdpa" if backend == "auto" else backend](query, key, value, mask)
    needs_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    width, has_mask = query.shape[-1], mask is not None
    case = Case(query.device.type, query.dtype, width, has_mask, needs_gradient)
    chosen = pick_backend(case) if backend == "auto" else backend
    check_backend(chosen, case)
    return _FUNCTIONS[chosen](query, key, value, mask)


def pick_backend(case: Case) -> Backend:
    """The back end that "auto" takes."""
    line = next(p for p in PICKS if p.device in {"", case.device} and p.fits(case))
    for backend in line.backends:
        reason = obstacle(backend, case)
        if reason is None:
            return backend
        _say_once(f"attention: not {backend} for {case.device}: {reason}")
    return "plain"


def check_backend(backend: str, case: Case) -> None:
    """Raise an error that says what is missing or impossible."""
    if backend not in get_args(Backend) or backend == "auto":
        allowed = ", ".join(get_args(Backend))
        raise InvalidRequestError("backend", f"{backend!r}; allowed: {allowed}")
    if backend == "flash-attn" and find_spec("flash_attn") is None:
        raise MissingDependencyError(
            "attention back end 'flash-attn': the package is not installed; "
            "pip install 'rapid-diffusion[flash]' on a machine with CUDA, or ask for 'sdpa-flash'"
        )
    if (reason := obstacle(backend, case)) is not None:
        raise InvalidRequestError("backend", f"{backend!r} {reason}; ask for 'auto'")


def obstacle(backend: str, case: Case) -> str | None:
    """Why a back end cannot serve this case; None if it can."""
    if backend == "flash-attn" and find_spec("flash_attn") is None:
        return "is not installed"
    if backend == "flash-attn" and case.device != "cuda":
        return f"runs on CUDA only, not on {case.device}"
    if backend in {"flash-attn", "sdpa-flash"}:
        return _flash_obstacle(case)
    return None


def _flash_obstacle(case: Case) -> str | None:
    if case.device == "cpu":
        return None if case.dtype.is_floating_point else f"does not know {case.dtype}"
    if case.device != "cuda":
        return f"does not run on {case.device}"
    if case.dtype not in HALF:
        return f"wants float16 or bfloat16 on CUDA, not {case.dtype}"
    if case.head_width > FLASH_WIDTH:
        return f"knows heads up to {FLASH_WIDTH} wide, not {case.head_width}"
    return "takes no mask on CUDA" if case.has_mask else None


def backends_here() -> dict[str, bool]:
    """For each back end whether this machine has it, on its best device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = Case(device, torch.bfloat16, 64, has_mask=False, needs_gradient=False)
    return {b: obstacle(b, case) is None for b in get_args(Backend) if b != "auto"}


def picks_here() -> dict[str, str]:
    """What "auto" takes on this machine, for the cases that differ."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = product(("drawing", "training"), (torch.float32, torch.bfloat16), (False, True))
    return {
        f"{use}, {dtype}, {'mask' if masked else 'no mask'}": pick_backend(
            Case(device, dtype, 64, masked, use == "training")
        )
        for use, dtype, masked in cases
    }


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q · kᵀ / sqrt(W)) · v: the reference."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is None:
        return scores.softmax(-1) @ value
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    # The least number keeps a row without a key finite; its weights are then none.
    return weights.masked_fill(~mask, 0.0) @ value


def _top_k_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, top_k: int, backend: str
) -> Tensor:
    if top_k < 1:
        raise InvalidRequestError("top_k", f"{top_k}; allowed: 1 and more")
    if backend not in {"auto", "plain"}:
        raise InvalidRequestError("backend", f"{backend!r}; top_k goes with 'plain' or 'auto'")
    if top_k >= key.shape[-2]:
        return plain_attention(query, key, value, mask)
    scores = query.detach() @ key.detach().transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    least = scores.topk(top_k, -1).values[..., -1:]  # keys as good as the k-th stay: M(P, k)
    best = scores >= least
    return plain_attention(query, key, value, best if mask is None else best & mask)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _sdpa_flash(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The kernel itself: `torch.nn.attention.sdpa_kernel` would pin it for all threads at once."""
    if query.device.type == "cpu":
        bias = None
        if mask is not None:
            bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
        seen: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, attn_mask=bias
        )[0]
        return seen
    width = query.shape[-1]
    padded = (pad(tensor, (0, -width % 8)) for tensor in (query, key, value))
    output: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(*padded, scale=width**-0.5)[
        0
    ]
    return output[..., :width]


def _flash_attn(query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None) -> Tensor:
    from flash_attn import flash_attn_func

    swapped = (tensor.transpose(1, 2) for tensor in (query, key, value))
    output: Tensor = flash_attn_func(*swapped)
    return output.transpose(1, 2)


_FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "flash-attn": _flash_attn,
    "sdpa-flash": _sdpa_flash,
    "sdpa": _sdpa,
    "plain": plain_attention,
}


#: What makes an attention block more than `DoorProcessor` knows.
_OWN = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "added_kv_proj_dim")


class DoorProcessor:
    """Sends an `Attention` block of `diffusers` through `attention`.

    `top_k` holds for cross-attention only. Takes blocks as UNets have them: tokens (B, L, D), no
    norms of their own; the mask is the bias (B, 1, K) that the UNet makes, 0 = may look.
    """

    def __init__(self, backend: Backend = "auto", top_k: int | None = None) -> None:
        self.backend, self.top_k = backend, top_k

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,  # noqa: ARG002 - of blocks with a norm of their own
    ) -> Tensor:
        """hidden_states (B, L, D) and what they look at (B, K, D') -> (B, L, D)."""
        crosses = encoder_hidden_states is not None
        seen = encoder_hidden_states if encoder_hidden_states is not None else hidden_states

        def heads(tensor: Tensor) -> Tensor:
            split = tensor.reshape(*tensor.shape[:-1], attn.heads, -1)
            return split.transpose(1, 2)

        query, key, value = attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen)
        output = attention(
            heads(query),
            heads(key),
            heads(value),
            None if attention_mask is None else (attention_mask > -1.0)[:, None],
            backend=self.backend,
            top_k=self.top_k if crosses else None,
        )
        output = attn.to_out[0](output.transpose(1, 2).flatten(2))
        output = attn.to_out[1](output)  # dropout
        if attn.residual_connection:
            output = output + hidden_states
        rescaled: Tensor = output / attn.rescale_output_factor
        return rescaled


def route_through_door(
    network: nn.Module, backend: Backend = "auto", top_k: int | None = None
) -> None:
    """Give the attention blocks of a `diffusers` network the `DoorProcessor`, in place.

    Blocks with norms or projections of their own, which no Stable Diffusion has, stay as they are.
    """
    for module in network.modules():
        block: Any = module
        if hasattr(block, "set_processor") and not any(getattr(block, name, None) for name in _OWN):
            block.set_processor(DoorProcessor(backend, top_k))


@cache
def _say_once(message: str) -> None:
    logger.info(message)
