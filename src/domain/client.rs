//! Services that ask about tokens with a secret of their own, and which tokens they learn of.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

use super::identity::Identity;

/// SHA-256 of a client's secret. Secrets are drawn at random, so a slow hash would add nothing but its cost.
pub type SecretHash = [u8; 32];

/// A service that shows its name and secret by HTTP Basic (RFC 6749 §2.3.1), as Spring Security's `opaquetoken` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its name.
    pub id: Box<str>,
    /// What its secret is known by.
    pub hash: SecretHash,
    /// Which tokens it learns of.
    pub sight: Sight,
    /// What it may take back.
    pub may_revoke: MayRevoke,
}

/// What a client may take back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MayRevoke {
    /// Tokens that were issued to it: those whose client it is (RFC 7009 §2.1).
    #[default]
    Own,
    /// Everything, as an operator may.
    Every,
}

/// Which tokens an asker learns of. Of the others it hears what it hears of tokens that do not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// All of them.
    #[default]
    Every,
    /// Those that are meant for one of these audiences. One without an audience is meant for none.
    MeantFor(Arc<[Box<str>]>),
}

impl Sight {
    /// Whether `identity`'s token is one of them.
    pub fn covers(&self, identity: &Identity) -> bool {
        match self {
            Self::Every => true,
            Self::MeantFor(audiences) => audiences.iter().any(|audience| identity.audiences.contains(audience)),
        }
    }
}

/// The hash that a secret is kept by.
pub fn secret_hash(secret: &str) -> SecretHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    hash
}

/// The client that has the name and the secret of one of these spellings. How long it takes says nothing of a secret, nor
/// whether there is a client of that name with another one.
pub fn authenticated<'a>(clients: &'a [Client], spellings: &[(String, String)]) -> Option<&'a Client> {
    spellings.iter().find_map(|(id, secret)| known(clients, id, secret))
}

fn known<'a>(clients: &'a [Client], id: &str, secret: &str) -> Option<&'a Client> {
    let shown = secret_hash(secret);
    let named = clients.iter().find(|client| *client.id == *id);
    let kept = named.map_or(&[0; 32], |client| &client.hash);
    let equal = verify_slices_are_equal(kept, &shown).is_ok();
    named.filter(|_| equal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients() -> Vec<Client> {
        let client = |id: &str, secret: &str| Client {
            id: id.into(),
            hash: secret_hash(secret),
            sight: Sight::Every,
            may_revoke: MayRevoke::Own,
        };
        vec![client("a", "the secret of a"), client("b", "the secret of b"), client("c", "")]
    }

    #[test]
    fn a_client_is_known_by_its_own_name_and_secret_only() {
        let clients = clients();
        let known = |id: &str, secret: &str| {
            let spellings = [(String::new(), secret.to_owned()), (id.to_owned(), secret.to_owned())];
            authenticated(&clients, &spellings).map(|client| &*client.id)
        };
        assert_eq!(known("a", "the secret of a"), Some("a"));
        assert_eq!(known("b", "the secret of b"), Some("b"));
        for (id, secret) in [
            ("a", "the secret of b"),
            ("a", "the secret of"),
            ("a", "the secret of a "),
            ("a", ""),
            ("A", "the secret of a"),
            ("", ""),
            ("d", "\0"),
        ] {
            assert_eq!(known(id, secret), None, "{id} {secret}");
        }
    }

    #[test]
    fn sight_is_by_whole_audiences() {
        let meant_for = |audiences: &[&str]| Identity {
            audiences: audiences.iter().map(|&audience| audience.into()).collect(),
            ..Identity::vouched_by("i")
        };
        let sight = Sight::MeantFor(["orders".into(), "billing".into()].into());
        for (audiences, covered) in [
            (&["orders"][..], true),
            (&["x", "billing"], true),
            (&["orders-admin", "order", "ORDERS", "orders/"], false),
            (&[], false),
        ] {
            assert_eq!(sight.covers(&meant_for(audiences)), covered, "{audiences:?}");
            assert!(Sight::Every.covers(&meant_for(audiences)));
        }
    }
}
