"""Level 1: the app is pointed at its agent by the usual variables. It is not held there.

A program that ignores the variables reaches the network directly; that is said out loud at each
run, and a policy can refuse it with `minimum_level`. Standard library only; pure.
"""

from __future__ import annotations

__all__ = ["LEVEL", "NOTICE", "proxy_variables", "trust_variables"]

LEVEL = 1
NOTICE = "level 1, pointed: by proxy variables only; a program that ignores them is not held"

# Every program reads another spelling; curl reads http_proxy in lower case only, on purpose.
_HTTP_PROXY = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY")
_NPM_PROXY = ("npm_config_proxy", "npm_config_https_proxy")
_ALL_PROXY = ("all_proxy", "ALL_PROXY")
_NO_PROXY = ("no_proxy", "NO_PROXY", "npm_config_noproxy")
# Variables that name a bundle which replaces the program's own.
_CA_BUNDLE = (
    "SSL_CERT_FILE",  # OpenSSL, so Python, Ruby, wget …
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "npm_config_cafile",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
)


def proxy_variables(host: str, port: int) -> dict[str, str]:
    """The variables that point curl, git, pip, npm, node and Python at the agent's listener."""
    variables = dict.fromkeys((*_HTTP_PROXY, *_NPM_PROXY), f"http://{host}:{port}")
    variables |= dict.fromkeys(_ALL_PROXY, f"socks5h://{host}:{port}")
    variables |= dict.fromkeys(_NO_PROXY, "localhost,127.0.0.1,::1")
    variables["NODE_USE_ENV_PROXY"] = "1"  # node 22.21 and 24: fetch and http obey the variables
    return variables


def trust_variables(bundle: str, extra: str) -> dict[str, str]:
    """The variables that make programs trust `bundle`; node adds `extra` to its own instead."""
    return dict.fromkeys(_CA_BUNDLE, bundle) | {"NODE_EXTRA_CA_CERTS": extra}
