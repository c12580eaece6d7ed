"""The two networks of Real-ESRGAN, under the parameter names of its published weights.

`RRDBNet` follows ESRGAN (Wang et al. 2018, arXiv:1809.00219) with the pixel-unshuffle entry of
Real-ESRGAN (arXiv:2107.10833); `SRVGGNetCompact` is the small network of its video models.
Both map a float image (B, 3, H, W), nominally in [0, 1], to (B, 3, scale*H, scale*W), unclamped.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Architecture = Literal["RRDBNet", "SRVGGNetCompact"]
Activation = Literal["prelu", "relu", "leakyrelu"]
RRDB_SCALES = (1, 2, 4)
_SIZES = ("scale", "num_feat", "num_block", "num_grow_ch", "num_conv", "num_in_ch", "num_out_ch")


@dataclass(frozen=True)
class UpscalerConfig:
    """Sizes of an upscaling network; `num_block`, `num_grow_ch` belong to RRDBNet,
    `num_conv`, `act_type` to SRVGGNetCompact. Raises `ValueError` for impossible sizes.
    """

    architecture: Architecture = "RRDBNet"
    scale: int = 4
    num_feat: int = 64
    num_block: int = 23
    num_grow_ch: int = 32
    num_conv: int = 16
    act_type: Activation = "prelu"
    num_in_ch: int = 3
    num_out_ch: int = 3

    def __post_init__(self) -> None:
        _one_of("architecture", self.architecture, get_args(Architecture))
        _one_of("act_type", self.act_type, get_args(Activation))
        for name in _SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 4096:
                raise ValueError(f"{name} is {value!r}; it must be an integer from 1 to 4096")
        if self.architecture == "RRDBNet":
            _one_of("scale", self.scale, RRDB_SCALES)

    @property
    def multiple(self) -> int:
        """Height and width of the network's input must be multiples of this."""
        return 4 // self.scale if self.architecture == "RRDBNet" else 1

    def to_dict(self) -> dict[str, Any]:
        """What `config.json` holds."""
        return asdict(self)


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {list(allowed)}")


def build_network(config: UpscalerConfig) -> nn.Module:
    """The network `config` describes, with fresh weights."""
    if config.architecture == "RRDBNet":
        return RRDBNet(config)
    return SRVGGNetCompact(config)


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, 1, 1)


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each seeing all earlier ones; a residual of weight 0.2."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1 = _conv(features, growth)
        self.conv2 = _conv(features + growth, growth)
        self.conv3 = _conv(features + 2 * growth, growth)
        self.conv4 = _conv(features + 3 * growth, growth)
        self.conv5 = _conv(features + 4 * growth, features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, H, W) -> the same shape."""
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat((seen, _leaky(conv(seen))), 1)
        return x + 0.2 * self.conv5(seen)


class ResidualInResidualDenseBlock(nn.Module):
    """Three dense blocks under one more residual (RRDB)."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(features, growth)
        self.rdb2 = ResidualDenseBlock(features, growth)
        self.rdb3 = ResidualDenseBlock(features, growth)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, H, W) -> the same shape."""
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    """ESRGAN's generator. It always enlarges four times inside: for scale 1 and 2 the image is
    first folded into channels, so that the blocks work on a 4 or 2 times smaller plane.
    """

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.fold = config.multiple
        width = config.num_feat
        self.conv_first = _conv(config.num_in_ch * self.fold**2, width)
        self.body = nn.Sequential(
            *(
                ResidualInResidualDenseBlock(width, config.num_grow_ch)
                for _ in range(config.num_block)
            )
        )
        self.conv_body = _conv(width, width)
        self.conv_up1 = _conv(width, width)
        self.conv_up2 = _conv(width, width)
        self.conv_hr = _conv(width, width)
        self.conv_last = _conv(width, config.num_out_ch)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, scale*H, scale*W); H and W are multiples of `fold`."""
        shallow = self.conv_first(functional.pixel_unshuffle(image, self.fold))
        features = shallow + self.conv_body(self.body(shallow))
        features = _leaky(self.conv_up1(_twice(features)))
        features = _leaky(self.conv_up2(_twice(features)))
        return self.conv_last(_leaky(self.conv_hr(features)))


class SRVGGNetCompact(nn.Module):
    """A plain chain of convolutions that predicts what the nearest-neighbour enlargement lacks."""

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.scale = config.scale
        width = config.num_feat
        # `body.N` counts convolutions and activations alike: the published keys depend on it.
        layers: list[nn.Module] = [_conv(config.num_in_ch, width), _activation(config)]
        for _ in range(config.num_conv):
            layers += [_conv(width, width), _activation(config)]
        for conv in layers[::2]:  # torch's own fresh weights would fade out in so long a chain
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, a=0.25)
        layers.append(_conv(width, config.num_out_ch * config.scale**2))
        self.body = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, scale*H, scale*W)."""
        detail = functional.pixel_shuffle(self.body(image), self.scale)
        return detail + functional.interpolate(image, scale_factor=self.scale, mode="nearest")


def less_enlarging(network: SRVGGNetCompact, scale: int) -> dict[str, Tensor]:
    """The weights of a network that gives what `network` gives, shrunk to `scale`.

    Squares of pixels are averaged. Raises `ValueError` for a scale that does not divide its own.
    """
    ratio, left = divmod(network.scale, scale)
    if left:
        raise ValueError(f"scale is {scale}; it must divide {network.scale}")
    weights = dict(network.state_dict())
    last = f"body.{len(network.body) - 1}"
    for name in (f"{last}.weight", f"{last}.bias"):  # a row for each channel and pixel
        rows = weights[name].unflatten(0, (-1, scale, ratio, scale, ratio))
        weights[name] = rows.mean((2, 4)).flatten(0, 2)
    return weights


def _activation(config: UpscalerConfig) -> nn.Module:
    if config.act_type == "relu":
        return nn.ReLU()
    if config.act_type == "leakyrelu":
        return nn.LeakyReLU(0.1)
    return nn.PReLU(config.num_feat)


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


def _twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")
