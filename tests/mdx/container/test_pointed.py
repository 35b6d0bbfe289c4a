from mdx.container.pointed import proxy_variables, trust_variables


def test_names_are_looked_up_behind_the_proxy_and_loopback_is_the_runs_own() -> None:
    variables = proxy_variables("127.0.0.1", 4711)

    # curl takes http_proxy in lower case only; Go and Java read upper case
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "npm_config_proxy"):
        assert variables[name] == "http://127.0.0.1:4711"
    assert variables["all_proxy"] == "socks5h://127.0.0.1:4711"  # h: the name goes to the proxy
    assert variables["NO_PROXY"].split(",") == ["localhost", "127.0.0.1", "::1"]
    assert variables["NODE_USE_ENV_PROXY"] == "1"


def test_no_variable_holds_a_secret_or_a_user() -> None:
    assert not any("@" in value for value in proxy_variables("127.0.0.1", 1).values())


def test_programs_trust_the_bundle_and_node_the_extra_file() -> None:
    variables = trust_variables("/both.pem", "/own.pem")

    assert variables.pop("NODE_EXTRA_CA_CERTS") == "/own.pem"
    assert set(variables.values()) == {"/both.pem"}
    assert {"SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT"} <= set(variables)
