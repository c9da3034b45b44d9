"""What can go wrong in a worker, in one line each."""


class WorkerError(Exception):
    """The base of the worker's own errors; the message is one line for a person."""


class ModelLoadError(WorkerError):
    """A model cannot be served: its files or its graph are not what the registry and the contract say."""


class ModelAnswerError(WorkerError):
    """A model gave an answer that breaks the contract; nothing of it may reach a client."""
