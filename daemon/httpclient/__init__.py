"""HTTP of our own towards others: health probes, webhooks, and fetching packages."""

from daemon.httpclient.client import HttpAnswer, HttpClient
from daemon.httpclient.deadline import Overdue, by_deadline
from daemon.httpclient.errors import HttpError
from daemon.httpclient.fetching import Fetcher, FetchLimits
from daemon.httpclient.sink import Answer, Sink
from daemon.httpclient.wording import explain

__all__ = [
    "Answer",
    "FetchLimits",
    "Fetcher",
    "HttpAnswer",
    "HttpClient",
    "HttpError",
    "Overdue",
    "Sink",
    "by_deadline",
    "explain",
]
