"""Which release this is."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rapid-diffusion")
except PackageNotFoundError:  # a bare checkout
    __version__ = "source"
