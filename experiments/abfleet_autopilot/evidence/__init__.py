"""What speaks against a treatment, a line at a time: the formulas are the analysis' own. Reads no file."""

__all__ = [
    "answering",
    "experiment_evidence",
    "guardrail_evidence",
    "routers",
    "step",
    "watched",
]
