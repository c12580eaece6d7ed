"""How good a model is: recall by an independent judge, with intervals."""

from rapid_diffusion.evaluation.report import run

__all__ = ["run"]
