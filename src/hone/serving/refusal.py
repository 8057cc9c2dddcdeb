"""Refusal: why a request is not answered, in OpenAI's shape of an error.

Does not know HTTP beyond the status.
"""

from __future__ import annotations

from typing import Any

from hone.errors import EngineError, HoneError

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refusal(HoneError):
    """`Refusal(400, "n is 17 and at most 16 are given", param="n")`. wait: seconds until it is worth another try; 0: never."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None, wait: int = 0):
        super().__init__(message)
        self.status, self.param, self.code, self.wait = status, param, code, wait

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        return {"Retry-After": str(self.wait)} if self.wait else {}

    def body(self) -> dict[str, Any]:
        """What OpenAI's clients read."""
        return error_body(self.status, str(self), self.param, self.code)


def refusal_of(no: HoneError) -> Refusal:
    """How an error of ours is answered: what was asked cannot be done, or it is the engine's server that fails."""
    if isinstance(no, Refusal):
        return no
    return Refusal(503, str(no), code="engine_failed", wait=1) if isinstance(no, EngineError) else Refusal(400, str(no))


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error as JSON; half characters, which a request may hold and no answer can, are written as U+FFFD."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    said = message.encode("utf-8", "replace").decode()
    return {"error": {"message": said, "type": kind, "param": param, "code": code}}
