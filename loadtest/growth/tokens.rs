//! Tokens: each is shown once, which verifies it, and then as often as any other.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message as _;
use tollgate::decide::ports::Clock as _;
use tollgate::domain::time::Micros;
use tollgate::server::dev::{AUDIENCE, ISSUER};

use super::load::{Load, Target, any_of, measure};
use super::{Field, Growing, Point, say_at};
use crate::orders::question;
use crate::question::config;

/// How many tokens there are. The last is a quarter more than are remembered.
const SIZES: [u64; 6] = [1_000, 10_000, 100_000, 300_000, 1_000_000, 1_250_000];

/// How many tokens a server remembers.
const ROOM: u64 = 1_000_000;

/// Calls in flight.
const CALLS: usize = 2;

/// Signs by Ed25519, which is the quickest to sign and nearly to verify.
struct Issuer {
    pair: Ed25519KeyPair,
    issued: Micros,
}

impl Issuer {
    fn new(now: Micros) -> Result<Self, String> {
        let pair = Ed25519KeyPair::generate().map_err(|_| "the system has no randomness".to_owned())?;
        Ok(Self { pair, issued: now })
    }

    fn configured(&self) -> String {
        let key = URL_SAFE_NO_PAD.encode(self.pair.public_key());
        format!(
            r#"issuer: "{ISSUER}", audiences: ["{AUDIENCE}"], jwks: {{ keys: [{{ kty: OKP, crv: Ed25519, alg: EdDSA, kid: k, x: "{key}" }}] }}"#
        )
    }

    /// All are of one subject: no more counters come with them.
    fn token(&self, number: u64) -> String {
        let issued = self.issued.as_secs();
        let claims = format!(
            r#"{{"iss":"{ISSUER}","aud":"{AUDIENCE}","sub":"alice","client_id":"demo-client","scope":"orders:read","jti":"{number:016}","iat":{issued},"exp":{}}}"#,
            issued + 3_600
        );
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let signed =
            format!("{}.{}", encode(br#"{"typ":"at+jwt","alg":"EdDSA","kid":"k"}"#), encode(claims.as_bytes()));
        let signature = encode(self.pair.sign(signed.as_bytes()).as_ref());
        format!("{signed}.{signature}")
    }
}

/// Measures every size.
pub(super) async fn take(field: &Field<'_>) -> Result<Vec<Point>, String> {
    let issuer = Issuer::new(field.clock.now().wall)?;
    let config = format!("{}bounds: {{ remembered_tokens: {ROOM} }}\n", config(&issuer.configured(), None));
    let start = async |name| Target::new(vec![field.server(name, config.clone()).await?], None).await;
    let (few, many) = (start("few tokens").await?, start("tokens").await?);
    let sizes = field.sizes(&SIZES, 3);
    let fewest = sizes.first().copied().unwrap_or(0);
    let (mut tokens, mut shown, mut points) = (Vec::<Box<str>>::new(), 0, Vec::new());
    for &size in sizes {
        say_at(Growing::Tokens, size);
        tokens.extend((shown..size).map(|number| issuer.token(number).into_boxed_str()));
        let ask = |number: u64| {
            let token = usize::try_from(number).ok().and_then(|number| tokens.get(number));
            question(token.map(ToString::to_string).unwrap_or_default()).encode_to_vec()
        };
        let load = |draw| Load { calls: CALLS, draw, question: &ask, all_allowed: true };
        let (any, any_of_few) = (any_of(size), any_of(fewest));
        let waits = many.fill(shown..size, &load(&any), field.clock).await?;
        let costs = measure(Some((&few, &load(&any_of_few))), (&many, &load(&any)), field.pace, field.clock).await?;
        points.push(Point::new(size, costs, many.resident()?).grown(waits));
        shown = size;
    }
    Ok(points)
}
