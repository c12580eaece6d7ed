"""Networks compiled ahead of time: made once for a machine, loaded in milliseconds.

See docs/engine.md, "Compiled".
"""
