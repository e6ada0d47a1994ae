//! Where an issuer has its keys and endpoints, as it says itself: OIDC Discovery 1.0 §4, RFC 8414 §3.

use url::Url;

use super::fetch::{self, FetchError, Fetched, Fetcher};
use super::json::{self, Bounds, Value};
use crate::domain::connection::Connection;
use crate::domain::time::Micros;

/// How long an address that was found is used before the issuer is asked for it again.
const REMEMBERED_FOR: Micros = Micros::from_secs(3600);

const BOUNDS: Bounds = Bounds { depth: 32, members: 2048, name_bytes: 1024 };

/// Finds an issuer's key set, or an endpoint.
pub(super) struct Discovery {
    issuer: String,
    openid: Url,
    oauth: Url,
    /// The member of the metadata that names it.
    member: &'static str,
    /// Whether it must be where the issuer itself is.
    is_at_home: bool,
    /// Whether we show a certificate there.
    by_mtls: bool,
    found: Option<Found>,
}

struct Found {
    place: Url,
    at: Micros,
}

impl Discovery {
    /// Of the endpoint that a member of the issuer's metadata names. It is shown tokens and our secret, so it must be where
    /// the issuer is: whoever wants another place writes that in the configuration. `by_mtls`: who we are is proved by a
    /// certificate; there may be a place of its own for that (RFC 8705 §5).
    pub(super) fn of_endpoint(
        member: &'static str,
        by_mtls: bool,
        issuer: &str,
        connection: &Connection,
    ) -> Result<Self, String> {
        Ok(Self { member, is_at_home: true, by_mtls, ..Self::of(issuer, connection)? })
    }

    /// Of the keys of the issuer of that name, which must be an address.
    pub(super) fn of(issuer: &str, connection: &Connection) -> Result<Self, String> {
        let base = fetch::address(issuer, connection)?;
        if base.query().is_some() {
            return Err(format!("`{issuer}` must have no query, for its metadata to have a place"));
        }
        let path = base.path().trim_end_matches('/').to_owned();
        let below = |path: &str| {
            let mut url = base.clone();
            url.set_path(path);
            url
        };
        let openid = below(&format!("{path}/.well-known/openid-configuration"));
        let oauth = below(&format!("/.well-known/oauth-authorization-server{path}"));
        let (issuer, member) = (issuer.to_owned(), "jwks_uri");
        Ok(Self { issuer, openid, oauth, member, is_at_home: false, by_mtls: false, found: None })
    }

    /// Fetches the key set from where the issuer says it is.
    pub(super) async fn fetch(&mut self, fetcher: &Fetcher, now: Micros) -> Result<Fetched, FetchError> {
        let keys = match self.found.take() {
            Some(found) if now.since(found.at) < REMEMBERED_FOR => found,
            _ => Found { place: self.ask(fetcher).await?, at: now },
        };
        // Where that fails the place may have changed: it is asked for again next time.
        let answer = fetcher.fetch(&keys.place).await?;
        self.found = Some(keys);
        Ok(answer)
    }

    /// The place, as the issuer said within the last hour.
    pub(super) async fn place(&mut self, fetcher: &Fetcher, now: Micros) -> Result<Url, FetchError> {
        if let Some(found) = self.found.as_ref().filter(|found| now.since(found.at) < REMEMBERED_FOR) {
            return Ok(found.place.clone());
        }
        let keys = self.ask(fetcher).await?;
        self.found = Some(Found { place: keys.clone(), at: now });
        Ok(keys)
    }

    /// The place may have changed: the issuer is asked for it again.
    pub(super) fn forget(&mut self) {
        self.found = None;
    }

    async fn ask(&self, fetcher: &Fetcher) -> Result<Url, FetchError> {
        let answer = match fetcher.fetch(&self.openid).await {
            Err(absent) if absent.is_absent() => fetcher.fetch(&self.oauth).await?,
            answer => answer?,
        };
        // The connection in force now: it may have changed since the issuer was configured.
        self.read(&answer.body, fetcher.connection()).map_err(FetchError::new)
    }

    /// The address in a metadata document. That must be about this very issuer (RFC 8414 §3.3): else whoever can place
    /// a document somewhere could vouch for others.
    fn read(&self, document: &[u8], connection: &Connection) -> Result<Url, String> {
        let member = self.member;
        let document = json::object(document, BOUNDS).map_err(|_| "its metadata is no JSON object".to_owned())?;
        match document.string("issuer") {
            Ok(Some(issuer)) if issuer == self.issuer => {}
            Ok(Some(issuer)) => {
                let issuer: String = issuer.chars().take(200).flat_map(char::escape_default).collect();
                return Err(format!("its metadata is about another issuer, `{issuer}`"));
            }
            Ok(None) | Err(_) => return Err("its metadata names no issuer".to_owned()),
        }
        let alias = match document.get("mtls_endpoint_aliases") {
            Some(Value::Object(aliases)) if self.by_mtls => aliases.string(member),
            Some(_) | None => Ok(None),
        };
        let place = alias.and_then(|alias| alias.map_or_else(|| document.string(member), |alias| Ok(Some(alias))));
        let Ok(Some(keys)) = place else {
            return Err(format!("its metadata has no `{member}`"));
        };
        let keys = fetch::address(keys, connection)
            .map_err(|why| format!("its metadata has a `{member}` that cannot be used: {why}"))?;
        if fetch::is_loopback(&keys) && !fetch::is_loopback(&self.openid) {
            return Err(format!("its metadata has a `{member}` on this machine, which is not where the issuer is"));
        }
        if self.is_at_home && keys.origin() != self.openid.origin() {
            return Err(format!(
                "its metadata has a `{member}` that is not where the issuer is; if that is meant, name its `url` in the \
                 configuration"
            ));
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn metadata_is_looked_for_where_openid_and_then_where_oauth_puts_it() {
        for (issuer, openid, oauth) in [
            (
                "https://a.example",
                "https://a.example/.well-known/openid-configuration",
                "https://a.example/.well-known/oauth-authorization-server",
            ),
            (
                "https://a.example/realms/x",
                "https://a.example/realms/x/.well-known/openid-configuration",
                "https://a.example/.well-known/oauth-authorization-server/realms/x",
            ),
            (
                "https://a.example/realms/x/",
                "https://a.example/realms/x/.well-known/openid-configuration",
                "https://a.example/.well-known/oauth-authorization-server/realms/x",
            ),
        ] {
            let discovery = Discovery::of(issuer, &Connection::default()).unwrap();
            assert_eq!((discovery.openid.as_str(), discovery.oauth.as_str()), (openid, oauth));
        }
        assert!(Discovery::of("https://a.example/?x=y", &Connection::default()).is_err());
        assert!(Discovery::of("a.example", &Connection::default()).is_err());
    }

    #[test]
    fn metadata_must_be_about_the_very_issuer_and_name_a_safe_place() {
        let discovery = Discovery::of("https://a.example/x", &Connection::default()).unwrap();
        let read = |issuer: &str, keys: &str| {
            discovery.read(format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}"}}"#).as_bytes(), &Connection::default())
        };
        assert_eq!(read("https://a.example/x", "https://keys.example/").unwrap().as_str(), "https://keys.example/");
        for issuer in
            ["https://a.example/x/", "https://A.example/x", "https://a.example:443/x", "https://b.example/x", ""]
        {
            assert!(read(issuer, "https://keys.example/").unwrap_err().contains("another issuer"), "{issuer}");
        }
        for keys in
            ["http://a.example/", "file:///x", "https://u@a.example/", "http://127.0.0.1/", "https://localhost/", ""]
        {
            assert!(read("https://a.example/x", keys).unwrap_err().contains("jwks_uri"), "{keys}");
        }
        for document in ["", "[]", "{}", r#"{"issuer":["https://a.example/x"]}"#, r#"{"issuer":"https://a.example/x"}"#]
        {
            assert!(discovery.read(document.as_bytes(), &Connection::default()).is_err(), "{document}");
        }
    }

    #[test]
    fn an_endpoint_that_is_shown_secrets_must_be_where_the_issuer_is() {
        let discovery =
            Discovery::of_endpoint("introspect", false, "https://a.example/x", &Connection::default()).unwrap();
        let read = |place: &str| {
            let document = format!(r#"{{"issuer":"https://a.example/x","introspect":"{place}"}}"#);
            discovery.read(document.as_bytes(), &Connection::default())
        };
        assert!(read("https://a.example/y").is_ok() && read("https://A.example:443/").is_ok());
        for elsewhere in
            ["https://b.example/x", "https://a.example:8443/", "https://a.example.evil/", "https://x.a.example"]
        {
            assert!(read(elsewhere).unwrap_err().contains("not where the issuer is"), "{elsewhere}");
        }
    }

    #[test]
    fn whoever_shows_a_certificate_goes_where_the_issuer_wants_those_who_do() {
        let read = |by_mtls, aliases: &str| {
            let discovery =
                Discovery::of_endpoint("introspect", by_mtls, "https://a.example", &Connection::default()).unwrap();
            let document = format!(
                r#"{{"issuer":"https://a.example","introspect":"https://a.example/x","mtls_endpoint_aliases":{aliases}}}"#
            );
            discovery.read(document.as_bytes(), &Connection::default()).map(|place| place.to_string())
        };
        let alias = r#"{"introspect":"https://a.example/mtls"}"#;
        assert_eq!(read(true, alias).unwrap(), "https://a.example/mtls");
        assert_eq!(read(false, alias).unwrap(), "https://a.example/x");
        assert_eq!(read(true, r#"{"other":"https://a.example/mtls"}"#).unwrap(), "https://a.example/x");
        assert!(
            read(true, r#"{"introspect":"https://mtls.a.example/"}"#).unwrap_err().contains("not where the issuer is")
        );
        assert!(read(true, r#"{"introspect":1}"#).is_err());
    }

    #[test]
    fn what_is_found_is_checked_by_the_connection_that_is_in_force() {
        let discovery = Discovery::of("https://a.example", &Connection::default()).unwrap();
        let document = br#"{"issuer":"https://a.example","jwks_uri":"http://a.example/keys"}"#;
        assert!(discovery.read(document, &Connection::default()).is_err());
        let plain = Connection { plain_http: true, ..Connection::default() };
        assert!(discovery.read(document, &plain).is_ok(), "allowed since by a reload");
    }
}
