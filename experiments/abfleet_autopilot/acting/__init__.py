"""Acts on the experiments file: written down first, made once, finished after a kill. Does IO; decides nothing."""

__all__ = [
    "action_log",
    "actor",
    "applying",
    "edits",
]
