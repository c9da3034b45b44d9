"""Proofs at full length, by `./run prove NAME`; the suite has a short form of each."""
