"""The rule for addresses of this machine, to which secrets and plain text may go."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Return whether `host` is a name or an address of this machine alone.

    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("[::1]"), is_loopback("kafka")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
