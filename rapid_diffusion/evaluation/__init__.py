"""How good a model is: one report, with an independent judge and intervals."""

from rapid_diffusion.evaluation.writing import run

__all__ = ["run"]
