//! The key that tokens are signed with: ECDSA P-256, made once per data directory.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::jwt::part;

/// The SubjectPublicKeyInfo of a P-256 key up to the point itself (RFC 5480).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point: a byte, then x and y.
const COORDINATE: usize = 32;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("making a key for service account tokens")]
    Generate,
    #[error("a key for service account tokens must be a PEM file with an ECDSA P-256 key in PKCS #8 ({reason})")]
    Parse { reason: String },
}

/// A signing key.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    /// PKCS #8.
    der: Vec<u8>,
    id: String,
    random: SystemRandom,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl TokenKey {
    /// A new key.
    ///
    /// # Errors
    /// The kernel gives no random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let der = der.map_err(|_| KeyError::Generate)?;
        Self::from_der(der.as_ref().to_vec())
    }

    /// # Errors
    /// It isn't a key of this sort.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| KeyError::Parse { reason: error.to_string() })?;
        Self::from_der(der.secret_pkcs8_der().to_vec())
    }

    fn from_der(der: Vec<u8>) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
            .map_err(|error| KeyError::Parse { reason: error.to_string() })?;
        let mut digest = Sha256::new();
        digest.update(SPKI_PREFIX);
        digest.update(pair.public_key().as_ref());
        // As Kubernetes names keys: the digest of the public key's DER.
        let id = URL_SAFE_NO_PAD.encode(digest.finalize());
        Ok(Self { pair, der, id, random })
    }

    #[must_use]
    pub fn to_pem(&self) -> String {
        const LINE: usize = 64;
        let text = STANDARD.encode(&self.der);
        let lines: Vec<&str> = (0..text.len()).step_by(LINE).map(|at| &text[at..text.len().min(at + LINE)]).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    }

    /// The public key (RFC 7518, section 6.2).
    pub(super) fn to_jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let x = point.get(1..=COORDINATE).unwrap_or_default();
        let y = point.get(COORDINATE + 1..).unwrap_or_default();
        json!({
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x),
            "y": URL_SAFE_NO_PAD.encode(y),
        })
    }

    /// A token with these claims.
    pub(super) fn sign(&self, claims: &Value) -> Result<String, String> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.pair.sign(&self.random, signed.as_bytes());
        let signature = signature.map_err(|_| "the key can't sign".to_owned())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    /// The claims of a token that this key signed.
    pub(super) fn verify(&self, token: &str) -> Result<Value, String> {
        let malformed = || "invalid bearer token".to_owned();
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
        let header = part(header).ok_or_else(malformed)?;
        if header.get("alg").and_then(Value::as_str) != Some("ES256") {
            return Err(malformed());
        }
        if header.get("kid").and_then(Value::as_str).is_some_and(|id| !id.is_empty() && id != self.id) {
            return Err("invalid signature, no keys found".to_owned());
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed())?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        public
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| "go-jose/go-jose: error in cryptographic primitive".to_owned())?;
        part(payload).ok_or_else(malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_key_signs_it_verifies_and_nothing_else() {
        let key = TokenKey::generate().unwrap();
        let claims = json!({"iss": "me", "sub": "x"});
        let token = key.sign(&claims).unwrap();
        assert_eq!(key.verify(&token).unwrap(), claims);
        let again = TokenKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.verify(&token).unwrap(), claims);
        assert_eq!(again.to_jwk(), key.to_jwk());

        let other = TokenKey::generate().unwrap();
        assert_eq!(other.verify(&token).unwrap_err(), "invalid signature, no keys found");
        let [header, payload, signature]: [&str; 3] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        let forged = URL_SAFE_NO_PAD.encode(json!({"iss": "me", "sub": "root"}).to_string());
        assert!(key.verify(&format!("{header}.{forged}.{signature}")).is_err());
        let unsigned = URL_SAFE_NO_PAD.encode(json!({"alg": "none"}).to_string());
        assert!(key.verify(&format!("{unsigned}.{payload}.")).is_err());
        for junk in ["", ".", "..", "a.b.c", "a.b"] {
            assert!(key.verify(junk).is_err(), "{junk}");
        }
    }

    #[test]
    fn another_sort_of_key_is_refused() {
        assert!(TokenKey::from_pem("nonsense").is_err());
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let error = TokenKey::from_pem(&p384.serialize_pem()).unwrap_err().to_string();
        assert!(error.contains("P-256"), "{error}");
    }
}
