//! Bodies, read within bounds of size and time; and forms (`application/x-www-form-urlencoded`).

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Request};
use futures_util::StreamExt as _;
use tokio::time::timeout;
use url::form_urlencoded;

use super::refusal::Refusal;
use crate::api::BODY_TIMEOUT;

/// The largest body. A token of the longest kind that is accepted (16 KiB) fits, every byte encoded.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The fields of a form, in order.
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads the body of `request`.
    pub(super) async fn read(request: Request<Body>) -> Result<Self, Refusal> {
        let bytes = body(request, "application/x-www-form-urlencoded").await?;
        let fields = form_urlencoded::parse(&bytes);
        Ok(Self(fields.map(|(name, value)| (name.into_owned(), value.into_owned())).collect()))
    }

    /// The one value of `name`. No value is the same as an empty one (RFC 6749 §3.2).
    pub(super) fn required(&self, name: &str, missing: &'static str, repeated: &'static str) -> Result<&str, Refusal> {
        let mut values = self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (None | Some(""), None) => Err(Refusal::Malformed(missing)),
            (Some(value), None) => Ok(value),
            (_, Some(_)) => Err(Refusal::Malformed(repeated)),
        }
    }
}

/// The body of `request`, which must be of that kind.
pub(super) async fn body(request: Request<Body>, media_type: &'static str) -> Result<Vec<u8>, Refusal> {
    if !is_of(request.headers(), media_type) {
        return Err(Refusal::ContentType(media_type));
    }
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > BODY_BYTES_MAX as u64) {
        return Err(Refusal::TooLarge);
    }
    timeout(BODY_TIMEOUT, whole(request.into_body())).await.map_err(|_| Refusal::TooSlow)?
}

/// Whether the headers announce that kind of body; parameters such as a charset change nothing.
fn is_of(headers: &HeaderMap, media_type: &str) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let kind = value.to_str().ok().and_then(|value| value.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(media_type))
}

async fn whole(body: Body) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Refusal::Malformed("the body ended before it was whole"))?;
        if bytes.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use futures_util::stream;
    use tokio::time::{Instant, sleep};

    use super::*;

    fn request(body: Body) -> Request<Body> {
        Request::post("/").header(CONTENT_TYPE, "Application/X-WWW-Form-Urlencoded; charset=UTF-8").body(body).unwrap()
    }

    async fn read(body: &str) -> Form {
        Form::read(request(Body::from(body.to_owned()))).await.ok().unwrap()
    }

    #[tokio::test]
    async fn a_field_has_one_value_or_none() {
        let token = async |body| match read(body).await.required("token", "missing", "repeated") {
            Ok(value) => value.to_owned(),
            Err(Refusal::Malformed(why)) => format!("({why})"),
            Err(_) => unreachable!(),
        };
        assert_eq!(token("token=a+b%2Bc").await, "a b+c");
        assert_eq!(token("x=y&%74oken=a").await, "a");
        assert_eq!(token("token=%zz%ff").await, "%zz\u{fffd}");
        for body in ["", "&&", "token", "token=", "token2=a", "TOKEN=a"] {
            assert_eq!(token(body).await, "(missing)", "{body}");
        }
        for body in ["token=a&token=a", "token=a&token", "token&%74oken=a"] {
            assert_eq!(token(body).await, "(repeated)", "{body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up_in_time() {
        let began = Instant::now();
        let drops = stream::unfold((), async |()| {
            sleep(Duration::from_secs(3)).await;
            Some((Ok::<_, std::convert::Infallible>("x"), ()))
        });
        let refusal = Form::read(request(Body::from_stream(drops))).await.err();
        assert!(matches!(refusal, Some(Refusal::TooSlow)), "{refusal:?}");
        assert_eq!(began.elapsed(), BODY_TIMEOUT);
    }
}
