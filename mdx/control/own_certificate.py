"""Control's own TLS: a key that lives in memory, and a certificate of its own CA for it.

Nothing is kept: a new start makes a new key. The chain that is shown ends with the root, so that a
device which knows only the root's fingerprint can verify it.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography import x509

from mdx.certificate_key import CertificateKey
from mdx.control.ca import wants_renewal
from mdx.control.enrollment import Enrollment
from tunnel import ClientCertificate, ServerContext, server_context

__all__ = ["OwnCertificate"]


class OwnCertificate:
    """The context for new connections, renewed when two thirds of its certificate's life are over.

    Raises: StoreFailed, AuditUnwritable.
    """

    def __init__(self, enrollment: Enrollment, *, name: str, clock: Callable[[], float]) -> None:
        self._enrollment = enrollment
        self._name = name
        self._clock = clock
        self._renew()

    def context(self) -> ServerContext:
        """The context to use now."""
        if wants_renewal(self._certificate, self._clock()):
            self._renew()
        return self._context

    def _renew(self) -> None:
        key = CertificateKey()
        issued = self._enrollment.own_certificate(self._name, key.request(), self._clock())
        root = self._enrollment.root_pem.encode()
        self._context = server_context(
            certificate=issued.pem.encode() + root,
            key=key.pem(),
            client_ca=root,
            client_certificate=ClientCertificate.OPTIONAL,
        )
        self._certificate = x509.load_pem_x509_certificate(issued.pem.encode())
