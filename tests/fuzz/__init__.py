"""Mutated inputs for every parser that takes outside bytes; `./run prove fuzz` runs them by the hundred thousand."""
