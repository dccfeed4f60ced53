"""Why the Manager could not call a daemon, in words an operator can act on; pure.

gRPC's own words go no further than here.
"""

from __future__ import annotations

from daemon.rpc.status import plain

TEXT_MAX = 300  # characters of gRPC's words, where nothing here fits them

# What gRPC says of a connection that did not come about, and what it means; the first that fits.
_CAUSES = (
    ("certificate has expired", "the daemon's certificate has expired; renew it on that host"),
    ("certificate is not yet valid",
     "the daemon's certificate is not valid yet; compare the clocks of both hosts"),
    ("certificate_verify_failed",
     "the daemon's certificate is not of an authority in {section}.ca_file; write the one that signed it"),
    ("hostname verification",
     "the daemon's certificate does not name {name}; write manager.daemon_tls.server_name (it may hold"
     " {{hostname}} or {{node_id}}), or have {name} named in the certificate"),
    ("wrong_version_number",
     "the daemon speaks no TLS there; write daemon.grpc.tls on that host, or correct its label grpc_port"),
    ("unsupported_protocol", "the daemon speaks no TLS 1.3; update it"),
    ("protocol_version", "the daemon speaks no TLS 1.3; update it"),
    ("handshake", "the TLS handshake failed; compare {section} with daemon.grpc.tls on that host"),
    ("connection refused",
     "nobody listens there; start the daemon, let its daemon.grpc_port be the port of its label grpc_port"
     " (else manager.daemon_port), and its grpc_host be one that is reached from here"),
    ("no route to host", "there is no route to it; check network and firewall"),
    ("network is unreachable", "its network cannot be reached; check the routes of the Manager's host"),
    ("too many open files", "the Manager has no file descriptor left; raise LimitNOFILE="),
    ("timed out", "it does not answer; check network and firewall"),
)
_CLOSED = ("socket closed", "connection reset", "broken pipe", "end of tcp stream", "goaway")
_CLOSED_TLS = (
    "the daemon closed the connection; it stopped, or it does not accept the Manager's certificate: the"
    " authority that signed {section}.cert_file must be in daemon.grpc.tls.ca_file on that host"
)
_CLOSED_PLAIN = (
    "the daemon closed the connection; it stopped, or it wants TLS: write manager.grpc.tls or"
    " manager.daemon_tls"
)


def connect_cause(details: str, *, secure: bool, section: str, name: str) -> str:
    """Why there is no connection, and what to do about it.

    Args:
        details: gRPC's words.
        secure: whether the Manager speaks TLS.
        section: of the configuration, whose files it uses.
        name: what the daemon's certificate must name.
    """
    low = details.lower()
    for sign, cause in _CAUSES:
        if sign in low:
            return cause.format(section=section, name=name)
    if any(sign in low for sign in _CLOSED):
        return _CLOSED_TLS.format(section=section) if secure else _CLOSED_PLAIN
    return f"{plain(details, TEXT_MAX)}; look at it, its port and its certificate".removeprefix("; ")
