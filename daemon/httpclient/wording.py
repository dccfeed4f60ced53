"""Why no answer came, said to an operator."""

from __future__ import annotations

from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.error import TimeoutError as ConnectTimeout

SHOWN_MAX = 200  # characters of what another library, or another side, said


def explain(error: BaseException, timeout_s: float) -> str:
    """Why no answer came, in a few words; ``timeout_s`` is what the attempt was given."""
    reasons = getattr(error, "reasons", None)  # twisted.web's ResponseFailed and its like
    if reasons:
        cause = reasons[0].value
        if isinstance(cause, KeyError):  # what twisted.web says of codings it has not
            return f"it answers with a Transfer-Encoding that nobody asked for ({_text(cause)})"
        if type(cause).__name__ == "ParseError" or isinstance(cause, ValueError):
            return f"the answer is not HTTP ({_text(cause)})"
        return explain(cause, timeout_s)
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectTimeout):
        return f"no connection within {timeout_s:g} s"
    if isinstance(error, ConnectError):
        return str(error.osError or error).rstrip(".") or type(error).__name__
    name, module = type(error).__name__, type(error).__module__
    if "ConnectionDone" in name or "ConnectionLost" in name or "ResponseNeverReceived" in name:
        return "the connection was closed before an answer came"
    if name == "Error" and "SSL" in module:
        return f"TLS: {error.args[0][0][2] if error.args and error.args[0] else error}"
    if module.startswith("service_identity"):
        return "TLS: the certificate is another host's"
    return _text(error)


def distrusted(error: BaseException) -> bool:
    """Whether the other side's certificate was refused: it will be the next time, too."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return distrusted(reasons[0].value)
    if type(error).__module__.startswith("service_identity"):
        return True
    return explain(error, 0) == "TLS: certificate verify failed"


def _text(error: BaseException) -> str:
    return " ".join(str(arg) for arg in error.args)[:SHOWN_MAX].rstrip(".") or type(error).__name__
