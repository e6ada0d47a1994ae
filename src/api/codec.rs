//! Protocol Buffers on the wire, as tonic's own codec has them, but for one thing: bytes that are no message are the
//! asker's fault. tonic answers them with `INTERNAL`; here it is `INVALID_ARGUMENT`, naming the field.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

use super::native::status;
use crate::decide::Violation;

/// Encodes `T` and decodes `U`; named by the generated services.
#[derive(Clone, Debug)]
pub struct StrictCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for StrictCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for StrictCodec<T, U>
where
    T: Message + 'static,
    U: Message + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = StrictDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        StrictDecoder(PhantomData)
    }
}

/// Decodes `U`.
#[derive(Clone, Debug)]
pub struct StrictDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for StrictDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(bytes).map(Some).map_err(|error| status::malformed(&[violation(&error.to_string())]))
    }
}

/// `failed to decode Protobuf message: RequestAttributes.path: DecideRequest.request: invalid string value: …`: the
/// innermost field comes first.
fn violation(error: &str) -> Violation {
    let mut field = Vec::new();
    let mut rest = error.split_once(": ").map_or(error, |(_, rest)| rest);
    while let Some((step, tail)) = rest.split_once(": ") {
        let Some((_, name)) = step.split_once('.').filter(|(message, _)| !message.contains(' ')) else { break };
        field.push(name);
        rest = tail;
    }
    field.reverse();
    Violation { field: field.join("."), description: format!("cannot be decoded: {rest}") }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::proto::{DecideRequest, RequestAttributes};

    fn decode(bytes: &[u8]) -> Violation {
        violation(&DecideRequest::decode(bytes).unwrap_err().to_string())
    }

    #[test]
    fn the_field_that_cannot_be_decoded_is_named() {
        let request = RequestAttributes { path: "/?".to_owned(), ..RequestAttributes::default() };
        let mut bytes = DecideRequest { request: Some(request), ..DecideRequest::default() }.encode_to_vec();
        let place = bytes.iter().rposition(|&byte| byte == b'?').unwrap();
        bytes[place] = 0xff;
        let violation = decode(&bytes);
        assert_eq!(violation.field, "request.path");
        assert!(violation.description.contains("UTF-8"), "{violation:?}");
        // A string where the message has a number.
        assert_eq!(decode(&[0x2a, 1, b'x']).field, "units");
        assert_eq!(decode(b"\xff\xff\xff").field, "");
    }
}
