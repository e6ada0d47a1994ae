//! Messages as calls carry them. What tonic serves has its own codec, but for one thing: bytes that are no message are the
//! asker's fault. tonic answers them with `INTERNAL`; here it is `INVALID_ARGUMENT`, naming the field.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::{Buf, BufMut as _, Bytes};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_prost::ProstEncoder;

use super::native::status;
use crate::decide::Violation;

/// The largest gRPC message that is read. A batch of 1,000 questions with tokens of 4 KiB fits.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

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

/// What stands before each message of a call: whether it is compressed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// A message `M` that was encoded already, after room for its prefix.
#[derive(Debug)]
pub struct Encoded<M>(Vec<u8>, PhantomData<fn() -> M>);

impl<M> Encoded<M> {
    /// An empty message, with room for so many bytes.
    pub(super) fn with_room(bytes: usize) -> Self {
        let mut prefixed = Vec::with_capacity(PREFIX_BYTES + bytes);
        prefixed.extend_from_slice(&[0; PREFIX_BYTES]);
        Self(prefixed, PhantomData)
    }

    /// Room for the prefix and the bytes behind it, to which more are added.
    pub(super) const fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0[PREFIX_BYTES..]
    }

    /// The message as a call carries it, with its prefix.
    ///
    /// # Errors
    /// Its length is none that a prefix can say.
    pub(super) fn framed(mut self) -> Result<Bytes, Status> {
        let length = u32::try_from(self.bytes().len());
        let length = length.map_err(|_| Status::resource_exhausted("the answer is larger than 4 GiB"))?;
        self.0[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        Ok(self.0.into())
    }
}

impl<M: Message + Default> Encoded<M> {
    /// Encodes `message`.
    pub(super) fn of(message: &M) -> Self {
        let mut encoded = Self::with_room(message.encoded_len());
        message.encode_raw(encoded.buffer());
        encoded
    }

    /// The message, for who is not at the other end of a wire.
    ///
    /// # Errors
    /// The bytes are none of such a message.
    pub fn message(&self) -> Result<M, prost::DecodeError> {
        M::decode(self.bytes())
    }
}

/// Hands messages on as bytes, and sends those that were encoded already.
#[derive(Clone, Debug)]
pub(super) struct BytesCodec<M>(PhantomData<fn() -> M>);

impl<M> Default for BytesCodec<M> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<M: 'static> Codec for BytesCodec<M> {
    type Encode = Encoded<M>;
    type Decode = Bytes;
    type Encoder = CopyingEncoder<M>;
    type Decoder = BytesDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        CopyingEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        BytesDecoder
    }
}

/// Leaves messages as they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct BytesDecoder;

impl Decoder for BytesDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining())))
    }
}

/// Copies what was encoded.
#[derive(Clone, Debug)]
pub(super) struct CopyingEncoder<M>(PhantomData<fn() -> M>);

impl<M> Encoder for CopyingEncoder<M> {
    type Item = Encoded<M>;
    type Error = Status;

    fn encode(&mut self, message: Encoded<M>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(message.bytes().len());
        to.put_slice(message.bytes());
        Ok(())
    }
}

/// Decodes `U`.
#[derive(Clone, Debug)]
pub struct StrictDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for StrictDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        decode(bytes).map(Some)
    }
}

/// Reads a message.
///
/// # Errors
/// Bytes that are none, as the status that the asker is told.
pub(super) fn decode<M: Message + Default>(bytes: impl Buf) -> Result<M, Status> {
    M::decode(bytes).map_err(|error| status::malformed(&[violation(&error.to_string())]))
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

    fn undecodable(bytes: &[u8]) -> Violation {
        violation(&DecideRequest::decode(bytes).unwrap_err().to_string())
    }

    #[test]
    fn the_field_that_cannot_be_decoded_is_named() {
        let request = RequestAttributes { path: "/?".to_owned(), ..RequestAttributes::default() };
        let mut bytes = DecideRequest { request: Some(request), ..DecideRequest::default() }.encode_to_vec();
        let place = bytes.iter().rposition(|&byte| byte == b'?').unwrap();
        bytes[place] = 0xff;
        let violation = undecodable(&bytes);
        assert_eq!(violation.field, "request.path");
        assert!(violation.description.contains("UTF-8"), "{violation:?}");
        // A string where the message has a number.
        assert_eq!(undecodable(&[0x2a, 1, b'x']).field, "units");
        assert_eq!(undecodable(b"\xff\xff\xff").field, "");
    }
}
