"""Checkpoint + images -> where the evidence lies, as pictures and as a record with checks. `run` is the way in."""
