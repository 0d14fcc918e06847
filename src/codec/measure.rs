//! Measures an encoded request by the limits of the contract, before it is decoded.
//!
//! A few bytes on the wire can become a hundred times as many in memory: an empty string in a list
//! takes 2 bytes on the wire and 24 in memory. So every list, map, `FieldMask` and `Struct` of a
//! request declares a limit in the contract (`accounts.v1.limit`). build.rs makes a [`Bounds`] of
//! the limits of each request, and refuses a contract that leaves one out.
//!
//! [`measure`] walks the encoded request and allocates nothing. It reads with the functions that
//! prost decodes with, so the two cannot read the same bytes differently.

use prost::{
    DecodeError,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

use crate::{error::Error, validate::Violations};

/// Most limits of one request; build.rs refuses a request with more.
pub const MAX_LIMITS: usize = 16;
/// Deepest nesting of messages; prost decodes no deeper.
const MAX_DEPTH: usize = 100;

/// A request message; build.rs implements it for all of them.
pub trait Bounded {
    /// The limits of the request.
    const BOUNDS: Bounds;
}

/// The limits of a request, and the fields that lead to what they limit.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The fields that lead to what is limited.
    pub shape: Shape,
    /// The limits; rules refer to them by index.
    pub limits: &'static [Limit],
}

/// The fields of a message that have a rule.
pub type Shape = &'static [Field];

/// A field with its rule.
#[derive(Debug)]
pub struct Field {
    /// The number of the field.
    pub number: u32,
    /// The rule.
    pub rule: Rule,
}

/// How a field is measured.
#[derive(Debug)]
pub enum Rule {
    /// A message that contains limited fields.
    Inside(Shape),
    /// A list or map: each element is one item of the limit.
    Items {
        /// The index of the limit.
        limit: usize,
        /// Size of an element in bytes when the list is packed into one field: 0 for varints,
        /// `None` if the list is never packed.
        packed: Option<usize>,
        /// The fields of an element.
        inside: Shape,
    },
    /// A Struct: each value inside it is one item of the limit.
    Values {
        /// The index of the limit.
        limit: usize,
    },
    /// A value inside a Struct.
    Value(Shape),
}

/// The limit of a field.
#[derive(Debug)]
pub struct Limit {
    /// The path of the field from the request.
    pub field: &'static str,
    /// Most items.
    pub items: u64,
    /// Most bytes of all items together.
    pub bytes: u64,
}

/// The shape of `google.protobuf.Struct`: its map, the map's entries, a value, and a list of
/// values.
static STRUCT: [Field; 1] = [Field { number: 1, rule: Rule::Value(&ENTRY) }];
static ENTRY: [Field; 1] = [Field { number: 2, rule: Rule::Inside(&VALUE) }];
static VALUE: [Field; 2] = [
    Field { number: 5, rule: Rule::Inside(&STRUCT) },
    Field { number: 6, rule: Rule::Inside(&LIST) },
];
static LIST: [Field; 1] = [Field { number: 1, rule: Rule::Value(&VALUE) }];

/// Checks an encoded request against its limits. Fails with every limit that it exceeds, or if the
/// bytes are not a message.
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

/// The counts so far, by limit. They are of the whole request, because prost merges a field that
/// occurs twice.
#[derive(Default)]
struct Counts([Count; MAX_LIMITS]);

#[derive(Default, Clone, Copy)]
struct Count {
    items: u64,
    bytes: u64,
}

/// The bytes are not a message.
struct Malformed;

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

impl Counts {
    /// Counts the items in a message. `outer` is the limit of the enclosing Struct, if there is
    /// one.
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

/// The number of elements in a field of a list.
fn elements(field: &[u8], packed: Option<usize>) -> u64 {
    match packed {
        None => 1,
        // Each varint ends with the byte whose highest bit is clear.
        Some(0) => field.iter().filter(|byte| **byte < 0x80).count() as u64,
        Some(width) => (field.len() / width) as u64,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::{FieldMask, ListValue, Struct, Value, value::Kind};

    use super::*;
    use crate::proto::{
        Account, BatchGetAccountsRequest, GetAccountRequest, ListAccountsRequest,
        UpdateAccountRequest,
    };

    fn measured<M: Message + Bounded>(message: &M) -> Result<(), Error> {
        measure(&message.encode_to_vec(), M::BOUNDS)
    }

    /// The fields that exceed a limit, with the rule.
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
        // Field 5 is unpacked with wire type 0, many times, and packed with wire type 2, once, with
        // many varints of one or two bytes.
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
    fn a_field_that_occurs_twice_is_counted_together() {
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
        // An object with a list with a list of `count` values, which makes two values more.
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

    /// Random bytes: what prost decodes was measured before and is within the limits.
    #[test]
    fn every_decoded_message_is_within_its_limits() {
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
                    // An empty group of an unknown field.
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
                    panic!("prost decodes what `measure` refuses as {error:?}: {bytes:?}")
                }
                (Err(_), _) => {}
            }
        }
        assert!(decoded > 1000 && refused > 1000, "decoded {decoded}, refused {refused}");
    }

    #[test]
    fn ids_are_bounded_in_bytes_too() {
        let request = BatchGetAccountsRequest { account_ids: vec!["x".repeat(300_000)] };
        let found = exceeded::<BatchGetAccountsRequest>(&request.encode_to_vec());
        assert_eq!(found, ["account_ids: must have at most 262144 bytes as encoded, has 300000"]);
    }
}
