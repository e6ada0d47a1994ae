//! Protocol Buffers on the wire, as tonic's own codec has them, but for one thing: bytes that are no message are the
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

/// A message `M` that was encoded already.
pub struct Encoded<M>(Vec<u8>, PhantomData<fn() -> M>);

impl<M> Encoded<M> {
    /// What these bytes are.
    pub(super) const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes, PhantomData)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<M: Message + Default> Encoded<M> {
    /// The message, for who is not at the other end of a wire.
    ///
    /// # Errors
    /// The bytes are none of such a message.
    pub fn message(&self) -> Result<M, prost::DecodeError> {
        M::decode(&*self.0)
    }
}

/// Hands messages on as bytes, and sends those that were encoded already.
#[derive(Clone, Debug)]
pub(super) struct BytesCodec<M> {
    buffers: BufferSettings,
    message: PhantomData<fn() -> M>,
}

impl<M> BytesCodec<M> {
    /// For calls with one message each way. tonic allocates room for either before it knows their sizes; what is this small
    /// costs the allocator next to nothing, and the usual question and answer fit.
    pub(super) fn unary() -> Self {
        Self { buffers: BufferSettings::new(1_024, usize::MAX), message: PhantomData }
    }

    /// For calls with many.
    pub(super) fn streaming() -> Self {
        Self { buffers: BufferSettings::default(), message: PhantomData }
    }
}

impl<M: 'static> Codec for BytesCodec<M> {
    type Encode = Encoded<M>;
    type Decode = Bytes;
    type Encoder = CopyingEncoder<M>;
    type Decoder = BytesDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        CopyingEncoder(self.buffers, PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        BytesDecoder(self.buffers)
    }
}

/// Leaves messages as they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct BytesDecoder(BufferSettings);

impl Decoder for BytesDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0
    }
}

/// Copies what was encoded.
#[derive(Clone, Debug)]
pub(super) struct CopyingEncoder<M>(BufferSettings, PhantomData<fn() -> M>);

impl<M> Encoder for CopyingEncoder<M> {
    type Item = Encoded<M>;
    type Error = Status;

    fn encode(&mut self, Encoded(bytes, _): Encoded<M>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(bytes.len());
        to.put_slice(&bytes);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0
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
