"""Signs as providers do, where they publish no signer of their own: for the verifiers' tests and their fuzz targets."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import datetime

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.fakes.certificates import self_signed


def sendgrid_key() -> tuple[ec.EllipticCurvePrivateKey, str]:
    """A key, and its public half as SendGrid shows it."""
    private = ec.generate_private_key(ec.SECP256R1())
    der = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, base64.b64encode(der).decode()


def sendgrid_signature(private: ec.EllipticCurvePrivateKey, timestamp: str, body: bytes) -> str:
    """ECDSA over the timestamp and the raw body."""
    return base64.b64encode(private.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))).decode()


def mailgun_signature(key: str, timestamp: str, token: str) -> str:
    """HMAC over timestamp and token; the body is not signed."""
    return hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()


def sns_certificate(now: datetime) -> tuple[rsa.RSAPrivateKey, bytes]:
    """A key, and a certificate of it in PEM that is valid a day around the moment."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key, self_signed(key, "sns.amazonaws.com", now)
