"""TLS contexts: the one place that says what our TLS is. TLS 1.3 by pyOpenSSL and nothing older.

Rules of this file:
- The cipher suite is AES-256-GCM. A caller may allow the other two suites of RFC 8446, by name.
- Key agreement is X25519MLKEM768, X25519 or P-256. pyOpenSSL has no public call for the list of
  groups, so the library's own stands (X25519MLKEM768 first) and a connection that agreed on any
  other group is refused after the handshake, before a byte of the application is read.
- No resumption. A resumed session skips the certificate check, so that a certificate which expired
  meanwhile would still open the door. It takes two settings: without tickets the library still
  resumes from its cache, and without the cache it still resumes from tickets.
- The application protocol (ALPN) is checked on both sides, because the library refuses no mismatch.
- A server verifies client certificates against one given CA. A client verifies the chain against a
  given CA, against the system's CAs only when told so, or against a CA that is known by the hash of
  its key alone (first contact); the name by subject alternative names, never by the common name.

Never: a key, or anything made from one, in a message or a repr; a look at who a certificate speaks
for (`tunnel.identity` reads that).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import verification
from OpenSSL import SSL, crypto

from tunnel.errors import HandshakeFailed
from tunnel.identity import public_key_hash

__all__ = [
    "GROUPS",
    "HTTP_1_1",
    "ClientCertificate",
    "ClientContext",
    "Negotiated",
    "ServerContext",
    "client_context",
    "failure_reason",
    "server_context",
]

HTTP_1_1 = "http/1.1"
AES_256_GCM = b"TLS_AES_256_GCM_SHA384"
# RFC 8446, B.4; the suites with an 8-byte tag are left out on purpose.
ANY_SUITE = AES_256_GCM + b":TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256"
# As the library names them. Finite-field groups let an unauthenticated client burn the most CPU.
GROUPS = frozenset({"X25519MLKEM768", "x25519", "secp256r1"})
# Compression and renegotiation are gone from TLS 1.3: those two are a second lock on the same door.
OPTIONS = SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION


class ClientCertificate(Enum):
    """Whether a server asks for the client's certificate. What is shown is always verified."""

    REQUIRED = "required"
    OPTIONAL = "optional"


@dataclass(frozen=True, slots=True, kw_only=True)
class Negotiated:
    """What both sides of a connection agreed on. `alpn` is None when the client offered nothing."""

    version: str
    cipher: str
    group: str
    alpn: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext:
    """What a server's connections are made from; made by `server_context`."""

    _context: SSL.Context = field(repr=False)

    def connection(self, server_name: str | None) -> SSL.Connection:
        """A new connection over memory buffers. A server has no `server_name` to ask for."""
        if server_name is not None:
            raise ValueError("a server does not choose the server's name")
        connection = SSL.Connection(self._context, None)
        connection.set_accept_state()
        return connection

    def check(self, connection: SSL.Connection, server_name: str | None) -> Negotiated:
        """What was negotiated by a finished handshake. Raises: HandshakeFailed."""
        return _negotiated(connection)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientContext:
    """What a client's connections are made from; made by `client_context`."""

    alpn: tuple[str, ...]
    pins: frozenset[str]
    _context: SSL.Context = field(repr=False)
    _trust_pinned: bool

    def connection(self, server_name: str | None) -> SSL.Connection:
        """A new connection over memory buffers to the server called `server_name`."""
        subject = _subject(server_name)
        connection = SSL.Connection(self._context, None)
        connection.set_connect_state()
        if isinstance(subject, x509.DNSName):  # RFC 6066, section 3: no literal addresses
            connection.set_tlsext_host_name(subject.value.encode("ascii"))
        return connection

    def check(self, connection: SSL.Connection, server_name: str | None) -> Negotiated:
        """What was negotiated, once protocol, name and pins are found right.

        Raises: HandshakeFailed.
        """
        negotiated = _negotiated(connection)
        if self.alpn and negotiated.alpn not in self.alpn:
            raise HandshakeFailed("the server speaks none of the offered application protocols")
        self._check_chain(connection, _subject(server_name))
        return negotiated

    def _check_chain(
        self, connection: SSL.Connection, subject: x509.DNSName | x509.IPAddress
    ) -> None:
        if self._trust_pinned:
            presented = _read_chain(connection.get_peer_cert_chain)
            _verify_pinned(presented, subject, self.pins)
            return
        chain = _read_chain(connection.get_verified_chain)
        if len(chain) < 2:
            raise HandshakeFailed("the server's certificate is its own authority")
        _verify_name([link.certificate for link in chain], subject)
        if self.pins and self.pins.isdisjoint(link.key_hash for link in chain):
            raise HandshakeFailed("no key in the server's certificate chain is one that is pinned")


def server_context(
    *,
    certificate: bytes,
    key: bytes,
    client_ca: bytes,
    client_certificate: ClientCertificate = ClientCertificate.REQUIRED,
    alpn: Sequence[str] = (HTTP_1_1,),
    any_cipher_suite: bool = False,
) -> ServerContext:
    """A server's context.

    `certificate` is the chain in PEM, the server's own first, `key` its private key in PEM, not
    encrypted; `client_ca` one or more CA certificates in PEM. A client that offers application
    protocols must offer one of `alpn`; one that offers nothing is taken in.

    Raises: ValueError for PEM that cannot be used. No message holds any of it.
    """
    context = _context(SSL.TLS_SERVER_METHOD, any_cipher_suite)
    _use_certificate(context, certificate, key)
    authorities = _load_certificates(client_ca, "client_ca")
    _trust(context, authorities)
    for authority in authorities:  # browsers offer their user only certificates of these
        context.add_client_ca(authority)
    mode = SSL.VERIFY_PEER
    if client_certificate is ClientCertificate.REQUIRED:
        mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    context.set_verify(mode, _note_verdict)
    protocols = [name.encode("ascii") for name in alpn]

    def choose(connection: SSL.Connection, offered: list[bytes]) -> bytes:
        for protocol in protocols:
            if protocol in offered:
                return protocol
        # Raised here, the library sends the alert no_application_protocol (RFC 7301, 3.2).
        raise HandshakeFailed("the client offers none of our application protocols")

    context.set_alpn_select_callback(choose)
    return ServerContext(_context=context)


def client_context(
    *,
    ca: bytes | None = None,
    system_cas: bool = False,
    pins: Collection[str] = (),
    certificate: bytes | None = None,
    key: bytes | None = None,
    alpn: Sequence[str] = (HTTP_1_1,),
    any_cipher_suite: bool = False,
) -> ClientContext:
    """A client's context. What is trusted is one of these:

    - `ca`: these CA certificates (PEM) and no other; or `system_cas`: the system's; or, where both
      are said, both. With `pins` as well, one key of the verified chain must be among them.
    - `pins` alone: the CA that the server sends in its chain, if its key is pinned. That is for the
      first contact with someone of whom no more is known than a hash.

    A pin is the SHA-256 of a DER SubjectPublicKeyInfo in lower-case hex. `certificate` (chain) and
    `key` are the client's own, PEM, not encrypted.

    Raises: ValueError for a choice that is none, and for PEM that cannot be used.
    """
    if not (ca is not None or system_cas or pins):
        raise ValueError("give a CA, or the system's CAs, or pins")
    if any(len(pin) != 64 or pin.strip("0123456789abcdef") for pin in pins):
        raise ValueError("a pin is 64 lower-case hexadecimal digits")
    if (certificate is None) != (key is None):
        raise ValueError("a certificate goes with its key")
    context = _context(SSL.TLS_CLIENT_METHOD, any_cipher_suite)
    trust_pinned = False
    if ca is not None:
        _trust(context, _load_certificates(ca, "ca"))
    if system_cas:
        context.set_default_verify_paths()
    if ca is not None or system_cas:
        context.set_verify(SSL.VERIFY_PEER, _note_verdict)
    else:
        trust_pinned = True  # `check` verifies the chain before anything is sent or read
        context.set_verify(SSL.VERIFY_NONE)
    if certificate is not None and key is not None:
        _use_certificate(context, certificate, key)
    if alpn:
        context.set_alpn_protos([name.encode("ascii") for name in alpn])
    return ClientContext(
        alpn=tuple(alpn), pins=frozenset(pins), _context=context, _trust_pinned=trust_pinned
    )


def failure_reason(connection: SSL.Connection, error: SSL.Error) -> str:
    """Why a handshake failed, in plain words. Nothing in it was chosen by the peer."""
    verdict = connection.get_app_data()
    if isinstance(verdict, str):
        return f"the peer's certificate was refused: {verdict}"
    if isinstance(error, SSL.SysCallError | SSL.ZeroReturnError):
        return "the peer closed the connection during the handshake"
    reasons = [entry[-1] for entry in error.args[0]] if error.args else []
    reason = str(reasons[0]) if reasons else "TLS failed"
    _, alert, text = reason.partition(" alert ")
    if alert:
        return f"the peer refused: {text}"
    return _PLAIN_WORDS.get(reason, reason)


_PLAIN_WORDS = {
    "http request": "the client speaks plain HTTP, not TLS",
    "https proxy request": "the client speaks plain HTTP, not TLS",
    "wrong version number": "the peer does not speak TLS",
    "packet length too long": "the peer does not speak TLS",
    "unsupported protocol": "the peer does not speak TLS 1.3",
    "no shared cipher": "the peer does not offer AES-256-GCM in TLS 1.3",
    "peer did not return a certificate": "certificate required: the client showed none",
}

_VERDICTS = {
    SSL.X509VerificationCodes.ERR_CERT_HAS_EXPIRED: "certificate expired",
    SSL.X509VerificationCodes.ERR_CERT_NOT_YET_VALID: "certificate not valid yet",
    SSL.X509VerificationCodes.ERR_CERT_REVOKED: "certificate revoked",
    SSL.X509VerificationCodes.ERR_INVALID_PURPOSE: "certificate not made for this side of TLS",
    SSL.X509VerificationCodes.ERR_UNABLE_TO_GET_ISSUER_CERT: "unknown ca",
    SSL.X509VerificationCodes.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "unknown ca",
    SSL.X509VerificationCodes.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: "unknown ca",
    SSL.X509VerificationCodes.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "unknown ca",
    SSL.X509VerificationCodes.ERR_SELF_SIGNED_CERT_IN_CHAIN: "unknown ca",
    SSL.X509VerificationCodes.ERR_CERT_SIGNATURE_FAILURE: "signature of another key",
}


def _context(method: int, any_cipher_suite: bool) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(ANY_SUITE if any_cipher_suite else AES_256_GCM)
    context.set_options(OPTIONS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    store = context.get_cert_store()
    if store is None:
        raise RuntimeError("a context without a certificate store")
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    return context


def _note_verdict(
    connection: SSL.Connection, certificate: object, code: int, depth: int, ok: int
) -> bool:
    """Pass the library's verdict on as it is, so that its alert names the cause; note the first."""
    if not ok and connection.get_app_data() is None:
        connection.set_app_data(_VERDICTS.get(code, f"verification error {code}"))
    return bool(ok)


def _load_certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ValueError(f"{what} holds no certificate in PEM") from None


def _use_certificate(context: SSL.Context, certificate: bytes, key: bytes) -> None:
    own, *chain = _load_certificates(certificate, "certificate")
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("key is not a private key in PEM that needs no passphrase") from None
    # Others have no place in the Web's PKI profile, by which clients judge a server's certificate.
    if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("key is neither an elliptic-curve nor an RSA key")
    if public_key_hash(private.public_key()) != public_key_hash(own.public_key()):
        raise ValueError("the key is not that of the certificate")
    context.use_certificate(own)
    context.use_privatekey(private)
    for issuer in chain:
        context.add_extra_chain_cert(issuer)


def _trust(context: SSL.Context, authorities: Iterable[x509.Certificate]) -> None:
    store = context.get_cert_store()
    if store is None:
        raise RuntimeError("a context without a certificate store")
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))


def _negotiated(connection: SSL.Connection) -> Negotiated:
    group = connection.get_group_name() or "none"
    if group not in GROUPS:
        raise HandshakeFailed(f"key agreement {group} is not one that we allow")
    return Negotiated(
        version=connection.get_protocol_version_name(),
        cipher=connection.get_cipher_name() or "none",
        group=group,
        alpn=connection.get_alpn_proto_negotiated().decode("ascii") or None,
    )


def _subject(server_name: str | None) -> x509.DNSName | x509.IPAddress:
    """Raises: ValueError. A client that cannot name its server would talk to anyone."""
    if not server_name:
        raise ValueError("a client needs the server's name")
    try:
        return x509.IPAddress(ipaddress.ip_address(server_name))
    except ValueError:
        return x509.DNSName(server_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    certificate: x509.Certificate
    key_hash: str


class _ChainLoader(Protocol):
    def __call__(self, *, as_cryptography: Literal[True]) -> list[x509.Certificate] | None: ...


def _read_chain(load: _ChainLoader) -> list[_Link]:
    """The peer's chain, the peer's own certificate first. Raises: HandshakeFailed."""
    try:
        return [
            _Link(certificate=certificate, key_hash=public_key_hash(certificate.public_key()))
            for certificate in load(as_cryptography=True) or ()
        ]
    except (ValueError, UnsupportedAlgorithm):
        raise HandshakeFailed("the server's certificate cannot be read") from None


def _verify_name(chain: Sequence[x509.Certificate], subject: x509.DNSName | x509.IPAddress) -> None:
    """Check the name in a chain that OpenSSL has verified, strictly, up to `chain[-1]`.

    That is why no other demand of the Web's PKI is made here a second time: private CAs often miss
    one of those (a critical subject alternative name beside a subject, for one).
    """
    anything = verification.ExtensionPolicy.permit_all()
    leaf = anything.require_present(
        x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None
    )
    ca = anything.require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, None)
    builder = verification.PolicyBuilder().extension_policies(ca_policy=ca, ee_policy=leaf)
    _run_verifier(builder, chain[0], chain[1:-1], chain[-1], subject)


def _verify_pinned(
    presented: Sequence[_Link], subject: x509.DNSName | x509.IPAddress, pins: frozenset[str]
) -> None:
    """Verify a chain, in full, up to the certificate in it whose key is pinned."""
    for anchor in presented[1:]:
        if anchor.key_hash in pins:
            others = [link.certificate for link in presented[1:] if link is not anchor]
            _run_verifier(
                verification.PolicyBuilder(),
                presented[0].certificate,
                others,
                anchor.certificate,
                subject,
            )
            return
    found = presented[-1].key_hash if presented else "nothing"
    raise HandshakeFailed(
        "no authority in the server's certificate chain is one that is pinned: "
        f"pinned is {', '.join(sorted(pins))}, the chain ends with {found}"
    )


def _run_verifier(
    builder: verification.PolicyBuilder,
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    anchor: x509.Certificate,
    subject: x509.DNSName | x509.IPAddress,
) -> None:
    try:
        verifier = builder.store(verification.Store([anchor])).build_server_verifier(subject)
    except ValueError:
        raise HandshakeFailed(f"{subject.value!a} is not a server's name") from None
    try:
        verifier.verify(leaf, list(intermediates))
    except verification.VerificationError as error:
        # The library's own text goes on to print the certificate, which the peer chose.
        text = str(error).partition(" (encountered")[0].removeprefix("validation failed: ")
        raise HandshakeFailed(
            f"the server's certificate is not good for {subject.value}: {text}"
        ) from None
