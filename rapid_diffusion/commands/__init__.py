"""The commands of `rapid-diffusion`, one module each; `rapid_diffusion.cli` puts them together.

Nothing heavy is imported at the top of these modules: `--help` answers at once.
"""
