//! Whole requests: any call with any message, to the service as it is, but without a database.

use std::{future::pending, net::SocketAddr, sync::OnceLock, time::Duration};

use bytes::Bytes;
use clap::Parser as _;
use futures_util::stream;
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use tokio::{net::TcpListener, runtime::Runtime, time::timeout};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{self, DecodeBuf, EncodeBuf},
    transport::Channel,
};
use tonic_types::StatusExt as _;

use crate::{
    config::Cli,
    db::{Db, Manager},
    proto::{PACKAGE, POOL},
    server,
};

/// Longest time of a call: none of them waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most messages inside each other that are made.
const MAX_DEPTH: usize = 5;
/// Texts that some rule is about.
const TEXTS: [&str; 24] = [
    "",
    "a",
    "acct-acme",
    "*",
    "-",
    "..",
    " a ",
    "A",
    "\0",
    "\n",
    "\u{200b}",
    "\u{feff}",
    "é",
    "e\u{301}",
    "ﬁ",
    "İ",
    "x@example.com",
    "DE",
    "EUR",
    "https://example.com/?a=1#b",
    "18446744073709551616",
    "display_name",
    "metadata.a",
    "AAAAAAAAAAAAAAAAYQBi",
];

/// The service, in a runtime of its own.
struct Here {
    runtime: Runtime,
    channel: Channel,
}

fn here() -> &'static Here {
    static HERE: OnceLock<Here> = OnceLock::new();
    HERE.get_or_init(|| {
        let runtime = Runtime::new().expect("a runtime");
        let channel = runtime.block_on(async {
            // Nothing answers there, and the login is not looked at.
            let nowhere: tokio_postgres::Config =
                "postgres://nobody@127.0.0.1:1/nothing".parse().expect("a URL");
            let db = Db::new(Manager::new(nowhere, None), 4, Duration::from_millis(1), None);
            let config = Cli::parse_from(["customer-accounts"]).config;
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address: SocketAddr = listener.local_addr().expect("an address");
            #[expect(clippy::disallowed_methods, reason = "it serves until the process ends")]
            drop(tokio::spawn(async move {
                server::serve(listener, db, &config, pending()).await.expect("serves");
            }));
            let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
            endpoint.connect().await.expect("connects")
        });
        Here { runtime, channel }
    })
}

/// The call (one byte), the form (one byte), and then the message: encoded as it is, or what to
/// make of the fields that the contract has. The answer is a success or an error with a reason,
/// and never a fault of the service.
pub fn request(data: &[u8]) {
    let [call, form, message @ ..] = data else { return };
    let services = POOL.services().filter(|service| service.package_name() == PACKAGE);
    let methods: Vec<_> = services.flat_map(|it| it.methods().collect::<Vec<_>>()).collect();
    let method = &methods[usize::from(*call) % methods.len()];
    let message = if form % 2 == 0 {
        Bytes::copy_from_slice(message)
    } else {
        Maker { bytes: message }.message(&method.input(), 0).encode_to_vec().into()
    };
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let Here { runtime, channel } = here();
    let answer =
        runtime.block_on(async { timeout(PATIENCE, ask(channel.clone(), &path, message)).await });
    let Err(status) = answer.unwrap_or_else(|_| panic!("{path} does not answer")) else { return };
    let reason = status.get_details_error_info().map(|info| info.reason);
    assert!(
        reason.is_some() && !matches!(status.code(), Code::Internal | Code::Unknown),
        "{path}: {status:?}"
    );
}

/// Sends one message and reads one.
async fn ask(channel: Channel, path: &str, message: Bytes) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(stream::iter([message]));
    let caller = request.metadata_mut();
    caller.insert("x-tenant-id", "fuzz".parse().expect("a value"));
    let path = path.parse().map_err(|_| Status::invalid_argument("a path"))?;
    grpc.streaming(request, path, Plain).await?.into_inner().message().await.map(drop)
}

/// Messages as they are encoded.
struct Plain;

impl codec::Codec for Plain {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl codec::Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put(buffer, message);
        Ok(())
    }
}

impl codec::Decoder for Plain {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        let length = bytes::Buf::remaining(buffer);
        bytes::Buf::advance(buffer, length);
        Ok(Some(()))
    }
}

/// Makes messages of what bytes say.
struct Maker<'a> {
    bytes: &'a [u8],
}

impl Maker<'_> {
    /// The next byte; 0 at the end, which leaves everything out.
    fn next(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        *first
    }

    fn number(&mut self) -> i64 {
        match self.next() {
            byte @ 0..=200 => i64::from(byte) - 50,
            201..=230 => i64::from_be_bytes(std::array::from_fn(|_| self.next())),
            231..=240 => i64::MAX,
            _ => i64::MIN,
        }
    }

    fn text(&mut self) -> String {
        match usize::from(self.next()) {
            known if known < 200 => TEXTS[known % TEXTS.len()].to_owned(),
            long @ 200..220 => "x".repeat((long - 199) * 300),
            more => {
                let own: Vec<u8> = (220..=more).map(|_| self.next()).collect();
                String::from_utf8_lossy(&own).into_owned()
            }
        }
    }

    fn message(&mut self, descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            if self.next().is_multiple_of(2) {
                continue;
            }
            let value = self.field(&field, depth);
            message.set_field(&field, value);
        }
        message
    }

    fn field(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        let count = || usize::from(depth < MAX_DEPTH);
        if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            let number = usize::from(self.next() % 3) * count();
            let pairs = (0..number).map(|_| {
                let key = match self.value(&key.kind(), depth + 1) {
                    Value::String(text) => MapKey::String(text),
                    _ => MapKey::String(String::new()),
                };
                (key, self.value(&value.kind(), depth + 1))
            });
            return Value::Map(pairs.collect());
        }
        if field.is_list() {
            let number = match self.next() {
                255 => 3000,
                few => usize::from(few % 4),
            };
            let number = number * count();
            return Value::List(
                (0..number).map(|_| self.value(&field.kind(), depth + 1)).collect(),
            );
        }
        self.value(&field.kind(), depth + 1)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "any number will do"
    )]
    fn value(&mut self, kind: &Kind, depth: usize) -> Value {
        match kind {
            Kind::Double => match self.next() {
                0 => Value::F64(f64::NAN),
                1 => Value::F64(f64::INFINITY),
                2 => Value::F64(f64::MIN_POSITIVE),
                _ => Value::F64(self.number() as f64 / 3.0),
            },
            Kind::Float => Value::F32(self.number() as f32),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(self.number() as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(self.number()),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(self.number() as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.number() as u64),
            Kind::Bool => Value::Bool(self.next() % 2 == 1),
            Kind::String => Value::String(self.text()),
            Kind::Bytes => Value::Bytes(self.text().into_bytes().into()),
            Kind::Enum(_) => Value::EnumNumber((self.number() as i32) % 16),
            Kind::Message(inside) if depth > MAX_DEPTH => {
                Value::Message(DynamicMessage::new(inside.clone()))
            }
            Kind::Message(inside) => Value::Message(self.message(inside, depth)),
        }
    }
}
