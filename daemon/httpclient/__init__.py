"""HTTP of our own towards others: health probes, webhooks, and fetching packages.

What fetches packages is imported from its own modules: most daemons never do.
"""

from daemon.httpclient.client import HttpAnswer, HttpClient
from daemon.httpclient.deadline import Overdue, by_deadline
from daemon.httpclient.errors import HttpError
from daemon.httpclient.wording import explain

__all__ = ["HttpAnswer", "HttpClient", "HttpError", "Overdue", "by_deadline", "explain"]
