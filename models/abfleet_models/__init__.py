"""The registry of models: what is in it, whether it is intact, and how its models are made."""
