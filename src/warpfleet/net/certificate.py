"""The certificate of a node for TLS and QUIC: its Ed25519 key, signed by itself (RFC 8410). The key alone counts."""

from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from warpfleet.core.identity import Identity

NODES_MAX = 1024  # of one process whose certificates are kept: a large fleet's
_ALWAYS = datetime(1970, 1, 1), datetime(9999, 12, 31)  # noqa: DTZ001 - no clock is to matter (RFC 5280 section 4.1.2.5)
_NOBODY = x509.Name([])


@lru_cache(NODES_MAX)
def certificate_of(identity: Identity) -> tuple[x509.Certificate, Ed25519PrivateKey]:
    """The node's certificate and private key. Equal identities have equal certificates."""
    key = Ed25519PrivateKey.from_private_bytes(identity.seed)
    builder = x509.CertificateBuilder(_NOBODY, _NOBODY, key.public_key(), serial_number=1)
    begins, ends = _ALWAYS
    return builder.not_valid_before(begins).not_valid_after(ends).sign(key, None), key


def key_in(certificate: x509.Certificate) -> bytes | None:
    """The 32-byte Ed25519 key that a certificate is for; None for any other kind of key."""
    try:
        key = certificate.public_key()
    except ValueError:  # a key that the library cannot read
        return None
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None


def key_of(der: bytes) -> bytes | None:
    """The same of a certificate in DER; None for what is no certificate, too."""
    try:
        return key_in(x509.load_der_x509_certificate(der))
    except ValueError:
        return None
