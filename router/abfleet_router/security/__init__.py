"""Who may call, and how often: tokens and scopes, rate limits, and the guards around a server."""

__all__ = [
    "access",
    "guards",
    "rate_limit",
    "security_settings",
]
