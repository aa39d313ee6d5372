"""The TLS context of all our clients: to load the system's certificate authorities holds the loop for 20 to 40 ms."""

import functools
import ssl


@functools.cache
def client_context() -> ssl.SSLContext:
    """The system's authorities, loaded at the first call. Shared: nobody may change it."""
    return ssl.create_default_context()


@functools.cache
def unverified_context() -> ssl.SSLContext:
    """For peers whose certificate no authority has signed, and that are judged by other means before anything is sent.

    Shared, as `client_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
