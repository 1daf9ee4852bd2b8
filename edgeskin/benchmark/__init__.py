"""Latency, memory and cold start of a bundle, with the conditions they were measured under.

`scenarios.run` is the way in. Nothing is imported here, so that a cold start can time its own imports.
"""
