"""Pictures with sentences in the formats people have: reading, checking, preparing.

Needs neither torch nor a model. Every reader is a generator of `Row` and `Problem`: a broken row
is named and passed over, it never stops the others, and it is never silent.
"""
