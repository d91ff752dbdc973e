"""Who a node is: an Ed25519 key pair with a name (RFC 8032), and the X25519 keys derived from it for sealing."""

from base64 import b32encode
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

from nacl.exceptions import BadSignatureError, CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox
from nacl.signing import SigningKey, VerifyKey

KEY_BYTES = 32  # an Ed25519 seed and an Ed25519 public key alike (RFC 8032 section 5.1.5)
SIGNATURE_BYTES = 64  # RFC 8032 section 5.1.6
_NODE_ID_BYTES = 20  # of the key's SHA-256: 160 bits, 32 characters of base32, no padding


class UnsealError(ValueError):
    """The bytes were not sealed to this identity, or were changed on their way."""


@dataclass(frozen=True)
class PublicIdentity:
    """What others know of a node: its name and its 32-byte Ed25519 verification key."""

    name: str
    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"an Ed25519 public key has {KEY_BYTES} bytes, not {len(self.key)}")

    @cached_property
    def node_id(self) -> str:
        """A short lower-case base32 text that stands for the key in topics and file names."""
        return node_id_of(self.key)

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether `signature` (64 bytes) is this identity's over `data`. Garbage is False, never an error."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            self._verify_key.verify(data, signature)
        except BadSignatureError:
            return False
        return True

    def seal(self, data: bytes) -> bytes:
        """Encrypt to this identity under a fresh ephemeral key, so that nothing tells who sent it (48 bytes longer).

        ValueError where the key is not a point of the curve.
        """
        return bytes(self._sealer.encrypt(data))

    @cached_property
    def _verify_key(self) -> VerifyKey:
        return VerifyKey(self.key)

    @cached_property
    def _sealer(self) -> SealedBox[PublicKey]:
        try:
            return SealedBox(self._verify_key.to_curve25519_public_key())
        except CryptoError as error:
            raise ValueError(f"the key of {self.name} is not a valid Ed25519 public key") from error

    def __reduce__(self) -> tuple[type["PublicIdentity"], tuple[str, bytes]]:
        return PublicIdentity, (self.name, self.key)


@dataclass(frozen=True)
class Identity:
    """A node's own identity. The seed (32 bytes) is the private key: it never shows in a repr."""

    name: str
    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != KEY_BYTES:
            raise ValueError(f"an Ed25519 seed has {KEY_BYTES} bytes, not {len(self.seed)}")

    @classmethod
    def generate(cls, name: str, entropy: bytes) -> "Identity":
        """A new identity from 32 bytes of a cryptographic source (`secrets.token_bytes(32)`)."""
        return cls(name, entropy)

    @classmethod
    def from_seed(cls, name: str, seed: bytes) -> "Identity":
        """The identity whose private key is `seed`."""
        return cls(name, seed)

    @cached_property
    def public(self) -> PublicIdentity:
        """What others may know."""
        return PublicIdentity(self.name, bytes(self._signing_key.verify_key))

    def sign(self, data: bytes) -> bytes:
        """The 64-byte Ed25519 signature over `data`."""
        return bytes(self._signing_key.sign(data).signature)

    def unseal(self, data: bytes) -> bytes:
        """Open what was sealed to this identity; UnsealError for anything else."""
        try:
            return bytes(self._unsealer.decrypt(data))
        except (CryptoError, ValueError, TypeError) as error:
            raise UnsealError("not sealed to this identity, or damaged") from error

    @cached_property
    def _signing_key(self) -> SigningKey:
        return SigningKey(self.seed)

    @cached_property
    def _unsealer(self) -> SealedBox[PrivateKey]:
        return SealedBox(self._signing_key.to_curve25519_private_key())

    def __reduce__(self) -> tuple[type["Identity"], tuple[str, bytes]]:
        return Identity, (self.name, self.seed)


def node_id_of(key: bytes) -> str:
    """The node id of an Ed25519 public key: the first 160 bits of its SHA-256, in lower-case base32."""
    return b32encode(sha256(key).digest()[:_NODE_ID_BYTES]).decode("ascii").lower()
