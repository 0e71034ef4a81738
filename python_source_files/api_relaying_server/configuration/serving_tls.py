"""The certificate and the key that the relay shows to its clients: whether they fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api_relaying_server.configuration.setting import Given
from api_relaying_server.errors import ConfigError

_PAIR = {"tls_cert": "tls_key", "tls_key": "tls_cert"}


def refuse_wrong_pair(as_dict: Mapping[str, Any], given: Mapping[str, Given]) -> None:
    """Raises ConfigError where one of the two is missing, or they cannot be used together."""
    for name, other in _PAIR.items():
        if as_dict.get(name) is not None and as_dict.get(other) is None:
            flag = "--" + other.replace("_", "-")
            raise ConfigError(f"{given[name].place}: is of no use alone; give {flag} too")
    certificate, key = as_dict.get("tls_cert"), as_dict.get("tls_key")
    if certificate is None or key is None:
        return
    from api_relaying_server.serving.tls import server_context

    try:
        server_context(certificate.content, key.content)
    except ValueError as wrong:
        raise ConfigError(f"{given['tls_key'].place}: {key.path} {wrong}") from None
