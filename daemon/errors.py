"""The errors of hostdaemon: one code per kind of fault, documented in docs/errors.md.

Every floor raises them; HTTP and gRPC statuses are two tables at the edges and nowhere else.
"""

from __future__ import annotations

from enum import Enum


class ErrorCode(Enum):
    """The D-code an operator sees, the same in logs, HTTP, gRPC and the command line."""

    CONFIG_LOAD = "D1001"
    CONFIG_VALIDATE = "D1002"
    LISTEN = "D1003"
    STORAGE = "D1004"
    MANAGER_CONNECT = "D2001"
    MANAGER_REGISTER = "D2002"
    MANAGER_REPORT = "D2003"
    AGENT_START = "D3001"
    AGENT_STOP = "D3002"
    AGENT_HEALTH = "D3003"
    UPDATE_DOWNLOAD = "D4001"
    UPDATE_VERIFY = "D4002"
    UPDATE_APPLY = "D4003"
    UPDATE_ROLLBACK = "D4004"
    COLLECT = "D5001"


class DaemonError(Exception):
    """A fault with a code.

    Args:
        code: what kind of fault this is.
        message: one sentence naming the cause and the next step.
        details: structured facts for logs and API answers; never secrets.
    """

    def __init__(self, code: ErrorCode, message: str, **details: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.code.value} {self.message}"


class _CodedError(DaemonError):
    """A subject's error: its code is a fact of the class."""

    CODE: ErrorCode

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(self.CODE, message, **details)


class ConfigLoadError(_CodedError):
    """The configuration file cannot be read or is not YAML."""

    CODE = ErrorCode.CONFIG_LOAD


class ConfigValidateError(_CodedError):
    """The configuration was read and says something that cannot be."""

    CODE = ErrorCode.CONFIG_VALIDATE


class ListenError(_CodedError):
    """A port or socket cannot be listened to."""

    CODE = ErrorCode.LISTEN


class StorageError(_CodedError):
    """The working directory, its lock or the disk refuses."""

    CODE = ErrorCode.STORAGE


class ManagerConnectError(_CodedError):
    """The Manager cannot be reached or its TLS is refused."""

    CODE = ErrorCode.MANAGER_CONNECT


class ManagerRegisterError(_CodedError):
    """The Manager refused the registration."""

    CODE = ErrorCode.MANAGER_REGISTER


class ManagerReportError(_CodedError):
    """The Manager refused a report."""

    CODE = ErrorCode.MANAGER_REPORT


class AgentStartError(_CodedError):
    """An agent could not be started or did not live ``start_seconds``."""

    CODE = ErrorCode.AGENT_START


class AgentStopError(_CodedError):
    """An agent, or something that belongs to it, could not be stopped."""

    CODE = ErrorCode.AGENT_STOP


class AgentHealthError(_CodedError):
    """An agent is not well."""

    CODE = ErrorCode.AGENT_HEALTH


class UpdateDownloadError(_CodedError):
    """A package could not be fetched."""

    CODE = ErrorCode.UPDATE_DOWNLOAD


class UpdateVerifyError(_CodedError):
    """A package's signature, hash or manifest is wrong."""

    CODE = ErrorCode.UPDATE_VERIFY


class UpdateApplyError(_CodedError):
    """A verified package could not be put in place or is not healthy."""

    CODE = ErrorCode.UPDATE_APPLY


class UpdateRollbackError(_CodedError):
    """The previous version could not be restored."""

    CODE = ErrorCode.UPDATE_ROLLBACK


class CollectError(_CodedError):
    """A collector failed."""

    CODE = ErrorCode.COLLECT


class RequestFault(Enum):
    """Why a request, rather than the daemon, is at fault. The edges have one table each for it."""

    INVALID = "invalid"
    UNKNOWN = "unknown"
    FORBIDDEN = "forbidden"
    UNAUTHORIZED = "unauthorized"
    SUPERSEDED = "superseded"
    PRECONDITION = "precondition"
    TOO_LARGE = "too_large"
    BUSY = "busy"
    STOPPING = "stopping"


class RequestError(Exception):
    """A request that cannot be granted; the daemon itself is well, so there is no D-code."""

    def __init__(self, fault: RequestFault, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.retry_after_s = retry_after_s
