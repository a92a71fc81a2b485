//! Who asks. A request carries its [`UserInfo`] as an extension, put there by the TLS listener (client certificate) or by
//! the in-process client; nothing else may put it there. Without one, its bearer token is looked at ([`crate::tokens`]); without either it is
//! anonymous, which suffices for a few paths. A user that may can then act as another ([`impersonation`]).

pub(crate) mod certificate;
pub(crate) mod impersonation;

pub use pullpiri_access::attributes::{AUTHENTICATED, UserInfo};

/// What of a user's credentials is told in `extra`.
pub(crate) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
