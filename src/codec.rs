//! How messages are read from and written to the wire: requests are measured before they are
//! decoded.
//!
//! A few bytes on the wire can become a hundred times as many in memory: an empty text of a list
//! takes 2 bytes there and 24 here. So every list, map, `FieldMask` and `Struct` of a request
//! declares a limit in the contract (`accounts.v1.limit`), which build.rs makes a [`Bounds`] of; it
//! refuses a contract that leaves one out. [`measure`] walks the encoded request and allocates
//! nothing. It reads the wire with the functions that prost decodes with, so that the two cannot
//! disagree about what it says.

use std::marker::PhantomData;

use prost::{
    DecodeError, Message,
    bytes::Buf as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use tonic::{
    Status,
    codec::{self, DecodeBuf, EncodeBuf},
};

use crate::{error::Error, validate::Violations};

/// Most limits of one request; build.rs refuses a request with more.
pub const MAX_LIMITS: usize = 16;
/// How deep messages may lie in each other: prost decodes no deeper.
const MAX_DEPTH: usize = 100;

/// A message that calls take; implemented by build.rs for all of them.
pub trait Bounded {
    /// The limits of the request.
    const BOUNDS: Bounds;
}

/// What a request may hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The fields that lead to what is limited.
    pub shape: Shape,
    /// The limits, which rules refer to by position.
    pub limits: &'static [Limit],
}

/// The fields of a message that have a rule.
pub type Shape = &'static [Field];

/// A field with its rule.
#[derive(Debug)]
pub struct Field {
    /// The number of the field.
    pub number: u32,
    /// What is done with it.
    pub rule: Rule,
}

/// What is measured of a field.
#[derive(Debug)]
pub enum Rule {
    /// A message: what has a limit lies inside.
    Inside(Shape),
    /// A list or map: each element is an item of the limit.
    Items {
        /// The position of the limit.
        limit: usize,
        /// How many bytes an element has when many are packed into one field; 0 for varints, `None`
        /// for what is never packed.
        packed: Option<usize>,
        /// The fields of an element.
        inside: Shape,
    },
    /// A Struct: the values inside are the items of the limit.
    Values {
        /// The position of the limit.
        limit: usize,
    },
    /// A value inside a Struct.
    Value(Shape),
}

/// How much a field may hold.
#[derive(Debug)]
pub struct Limit {
    /// The path of the field from the request.
    pub field: &'static str,
    /// Most items.
    pub items: u64,
    /// Most bytes of all items together.
    pub bytes: u64,
}

/// `google.protobuf.Struct`: its map, the entries of the map, and lists of values.
static STRUCT: [Field; 1] = [Field { number: 1, rule: Rule::Value(&ENTRY) }];
static ENTRY: [Field; 1] = [Field { number: 2, rule: Rule::Inside(&VALUE) }];
static VALUE: [Field; 2] = [
    Field { number: 5, rule: Rule::Inside(&STRUCT) },
    Field { number: 6, rule: Rule::Inside(&LIST) },
];
static LIST: [Field; 1] = [Field { number: 1, rule: Rule::Value(&VALUE) }];

/// Checks an encoded request against its limits. Fails with every limit that it exceeds, or because
/// the bytes are no message.
pub fn measure(request: &[u8], bounds: Bounds) -> Result<(), Error> {
    if bounds.shape.is_empty() {
        return Ok(());
    }
    let mut counts = Counts::default();
    counts.walk(request, bounds.shape, 0, 0).map_err(|_| Error::MalformedRequest)?;
    let mut violations = Violations::default();
    for (limit, count) in bounds.limits.iter().zip(counts.0) {
        if count.items > limit.items {
            violations.add(
                limit.field,
                format!("must have at most {} entries, has {}", limit.items, count.items),
            );
        }
        if count.bytes > limit.bytes {
            violations.add(
                limit.field,
                format!("must have at most {} bytes as encoded, has {}", limit.bytes, count.bytes),
            );
        }
    }
    violations.finish(())
}

/// What has been found so far, by limit. Counted over the whole request, because prost merges a
/// field that comes twice.
#[derive(Default)]
struct Counts([Count; MAX_LIMITS]);

#[derive(Default, Clone, Copy)]
struct Count {
    items: u64,
    bytes: u64,
}

/// The bytes are no message.
struct Malformed;

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

impl Counts {
    /// Counts what is in a message. `outer` is the limit of the Struct around it, if there is one.
    fn walk(
        &mut self,
        mut message: &[u8],
        shape: Shape,
        outer: usize,
        depth: usize,
    ) -> Result<(), Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed);
        }
        while !message.is_empty() {
            let (number, wire) = decode_key(&mut message)?;
            let rule = shape.iter().find(|field| field.number == number).map(|field| &field.rule);
            let Some(rule) = rule.filter(|_| wire == WireType::LengthDelimited) else {
                if let Some(Rule::Items { limit, .. }) = rule {
                    self.0[*limit].items += 1;
                }
                skip_field(wire, number, &mut message, DecodeContext::default())?;
                continue;
            };
            let length = usize::try_from(decode_varint(&mut message)?).map_err(|_| Malformed)?;
            let (field, rest) = message.split_at_checked(length).ok_or(Malformed)?;
            message = rest;
            match *rule {
                Rule::Inside(inside) => self.walk(field, inside, outer, depth + 1)?,
                Rule::Items { limit, packed, inside } => {
                    self.0[limit].items += elements(field, packed);
                    self.0[limit].bytes += field.len() as u64;
                    if !inside.is_empty() {
                        self.walk(field, inside, outer, depth + 1)?;
                    }
                }
                Rule::Values { limit } => {
                    self.0[limit].bytes += field.len() as u64;
                    self.walk(field, &STRUCT, limit, depth + 1)?;
                }
                Rule::Value(inside) => {
                    self.0[outer].items += 1;
                    self.walk(field, inside, outer, depth + 1)?;
                }
            }
        }
        Ok(())
    }
}

/// How many elements a field of a list has.
fn elements(field: &[u8], packed: Option<usize>) -> u64 {
    match packed {
        None => 1,
        // Each varint ends with the byte whose highest bit is clear.
        Some(0) => field.iter().filter(|byte| **byte < 0x80).count() as u64,
        Some(width) => (field.len() / width) as u64,
    }
}

/// Reads requests as prost does, within their limits, and writes answers. The generated code of the
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

/// Writes messages.
#[derive(Debug)]
pub struct Encoder<T>(PhantomData<T>);

impl<T: Message> codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // At once: a buffer that doubles as it grows holds up to three times as much.
        buffer.reserve(message.encoded_len());
        message
            .encode(buffer)
            .map_err(|error| Error::internal(format!("encoding a message: {error}")).into())
    }
}

/// Reads messages.
#[derive(Debug)]
pub struct Decoder<U>(PhantomData<U>);

impl<U: Message + Bounded + Default> codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Without a copy: tonic has the whole message in one piece.
        let message = buffer.copy_to_bytes(buffer.remaining());
        measure(&message, U::BOUNDS)?;
        // INTERNAL is how tonic's own codec says this; the guard gives it its reason.
        U::decode(message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{FieldMask, ListValue, Struct, Value, value::Kind};

    use super::*;
    use crate::proto::{
        Account, BatchGetAccountsRequest, GetAccountRequest, ListAccountsRequest,
        UpdateAccountRequest,
    };

    fn measured<M: Message + Bounded>(message: &M) -> Result<(), Error> {
        measure(&message.encode_to_vec(), M::BOUNDS)
    }

    /// The fields that exceed a limit.
    fn exceeded<M: Bounded>(encoded: &[u8]) -> Vec<String> {
        match measure(encoded, M::BOUNDS) {
            Ok(()) => Vec::new(),
            Err(Error::Invalid { violations, .. }) => {
                violations.into_iter().map(|it| format!("{}: {}", it.field, it.rule)).collect()
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn lists_are_counted_packed_and_unpacked() {
        // Field 5 of wire type 0, many times; of wire type 2, once with many varints of one and of
        // two bytes.
        let unpacked = |count: usize| [0x28, 1].repeat(count);
        let packed = |bytes: &[u8], count: usize| {
            let content = bytes.repeat(count);
            let mut field = vec![0x2a];
            prost::encoding::encode_varint(content.len() as u64, &mut field);
            [field, content].concat()
        };
        for encoded in [
            unpacked(100),
            packed(&[1], 100),
            packed(&[0x81, 0], 100),
            [packed(&[1], 60), unpacked(40)].concat(),
        ] {
            assert_eq!(ListAccountsRequest::decode(&*encoded).unwrap().statuses.len(), 100);
            assert_eq!(exceeded::<ListAccountsRequest>(&encoded), Vec::<String>::new());
            let encoded = [encoded, unpacked(1)].concat();
            assert_eq!(
                exceeded::<ListAccountsRequest>(&encoded),
                ["statuses: must have at most 100 entries, has 101"]
            );
        }
    }

    #[test]
    fn what_comes_twice_is_counted_together() {
        let paths = |count| UpdateAccountRequest {
            update_mask: Some(FieldMask { paths: vec!["*".into(); count] }),
            ..Default::default()
        };
        let twice = [paths(100).encode_to_vec(), paths(29).encode_to_vec()].concat();
        assert_eq!(
            exceeded::<UpdateAccountRequest>(&twice),
            ["update_mask: must have at most 128 entries, has 129"]
        );
    }

    #[test]
    fn values_of_a_struct_are_counted_at_every_depth() {
        let list = |values: Vec<Value>| Value { kind: Some(Kind::ListValue(ListValue { values })) };
        let object = |value| Struct { fields: [("k".to_owned(), value)].into() };
        let preferring = |preferences| UpdateAccountRequest {
            account: Some(Account { preferences: Some(preferences), ..Default::default() }),
            ..Default::default()
        };
        // An object with a list with a list of so many: two values more.
        let nested = |count| preferring(object(list(vec![list(vec![Value::default(); count])])));
        assert!(measured(&nested(1998)).is_ok());
        assert_eq!(
            exceeded::<UpdateAccountRequest>(&nested(1999).encode_to_vec()),
            ["account.preferences: must have at most 2000 entries, has 2001"]
        );
        let text =
            |bytes| preferring(object(Value { kind: Some(Kind::StringValue("x".repeat(bytes))) }));
        assert!(measured(&text(98_000)).is_ok());
        assert_eq!(exceeded::<UpdateAccountRequest>(&text(99_000).encode_to_vec()).len(), 1);
    }

    #[test]
    fn a_request_without_lists_is_not_walked() {
        assert!(GetAccountRequest::BOUNDS.shape.is_empty());
    }

    /// Whatever the bytes: what prost decodes has been measured, and holds no more than was
    /// counted.
    #[test]
    fn what_is_decoded_was_measured() {
        let mut state = 1_u64;
        let mut roll = |sides: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % sides as u64).unwrap()
        };
        let (mut decoded, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let mask = FieldMask { paths: (0..roll(200)).map(|i| "p".repeat(i % 4)).collect() };
            let values = vec![Value::default(); roll(5)];
            let value = Value { kind: Some(Kind::ListValue(ListValue { values })) };
            let preferences =
                Struct { fields: (0..roll(3)).map(|i| (i.to_string(), value.clone())).collect() };
            let account = Account {
                preferences: Some(preferences),
                display_name: "n".into(),
                ..Default::default()
            };
            let request = UpdateAccountRequest {
                account: Some(account),
                update_mask: Some(mask),
                ..Default::default()
            };
            let mut bytes = request.encode_to_vec();
            for _ in 0..roll(4) {
                let at = roll(bytes.len());
                match roll(4) {
                    0 => bytes[at] = u8::try_from(roll(256)).unwrap(),
                    1 => bytes.truncate(at),
                    2 => bytes.extend_from_within(at..),
                    // A group of an unknown field around nothing.
                    _ => bytes.extend([0xfb, 0x01, 0xfc, 0x01]),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            let measured = measure(&bytes, UpdateAccountRequest::BOUNDS);
            match (UpdateAccountRequest::decode(&*bytes), measured) {
                (Ok(request), Ok(())) => {
                    decoded += 1;
                    assert!(request.update_mask.is_none_or(|mask| mask.paths.len() <= 128));
                }
                (Ok(_), Err(Error::Invalid { .. })) => refused += 1,
                (Ok(_), Err(error)) => {
                    panic!("prost decodes what the measure finds {error:?}: {bytes:?}")
                }
                (Err(_), _) => {}
            }
        }
        assert!(decoded > 1000 && refused > 1000, "both happen: {decoded} and {refused}");
    }

    #[test]
    fn ids_are_bounded_in_bytes_too() {
        let request = BatchGetAccountsRequest { account_ids: vec!["x".repeat(300_000)] };
        let found = exceeded::<BatchGetAccountsRequest>(&request.encode_to_vec());
        assert_eq!(found, ["account_ids: must have at most 262144 bytes as encoded, has 300000"]);
    }
}
