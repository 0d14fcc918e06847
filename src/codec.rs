//! The codec of all calls: requests are measured by their limits before prost decodes them.

mod measure;

use std::marker::PhantomData;

use prost::{Message, bytes::Buf as _};
use tonic::{
    Status,
    codec::{self, DecodeBuf, EncodeBuf},
};

pub use self::measure::{Bounded, Bounds, Field, Limit, MAX_LIMITS, Rule, Shape, measure};
use crate::error::Error;

/// Decodes requests that are within their limits, and encodes answers. The generated code of the
/// services uses it.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + 'static,
    U: Message + Bounded + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> Decoder<U> {
        Decoder(PhantomData)
    }
}

/// Encodes messages.
#[derive(Debug)]
pub struct Encoder<T>(PhantomData<T>);

impl<T: Message> codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // Reserved at once: a buffer that doubles as it grows holds up to three times as much.
        buffer.reserve(message.encoded_len());
        message
            .encode(buffer)
            .map_err(|error| Error::internal(format!("encoding a message: {error}")).into())
    }
}

/// Measures and decodes messages.
#[derive(Debug)]
pub struct Decoder<U>(PhantomData<U>);

impl<U: Message + Bounded + Default> codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // This does not copy: tonic has the whole message in one piece.
        let message = buffer.copy_to_bytes(buffer.remaining());
        measure(&message, U::BOUNDS)?;
        // tonic's own codec answers INTERNAL too; the guard replaces it by the reason.
        U::decode(message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
