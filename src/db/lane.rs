//! A connection for hot reads. It sends the statements of several calls as one *flight*: one
//! message to the server with one Sync, and so one implicit transaction without BEGIN and ROLLBACK.
//! [`super::hot`] decides what flies together.
//!
//! tokio-postgres does the handshake; then the socket is ours. The statements are Diesel's, and so
//! is what reads the rows.

use std::{
    collections::HashMap, error::Error as StdError, io, num::NonZeroU32, ops::Range, sync::Arc,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use diesel::{
    QueryResult,
    pg::{Pg, PgMetadataLookup, PgQueryBuilder, PgTypeMetadata, PgValue},
    query_builder::{QueryBuilder as _, QueryFragment, bind_collector::RawBytesBindCollector},
    row::{Field, PartialRow, Row, RowIndex, RowSealed},
};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::{
    IsNull,
    message::{
        backend::{ErrorResponseBody, Message},
        frontend,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};
use tokio_postgres::CancelToken;

use super::{
    connect::{self, Address, Login, Server, Socket},
    pool::{ConnectError, RECOVERY},
};

/// Values and rows are in PostgreSQL's binary format, as Diesel writes and reads them.
const BINARY: [i16; 1] = [1];
/// OID of the type `text`.
const TEXT: u32 = 25;

/// Why a flight was not answered. Its connection cannot be used again.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The connection has failed or was closed.
    #[error("the connection failed: {0}")]
    Socket(#[from] io::Error),
    /// The server has answered with an error; without its message, which may quote rows.
    #[error("the server answered with SQLSTATE {0}")]
    Server(String),
    /// The server has answered what does not belong to the flight.
    #[error("an answer does not belong to what was asked: {0}")]
    Protocol(&'static str),
    /// A row belongs to another tenant than the call that asked for it.
    #[error("a row of another tenant was found")]
    Foreign,
}

/// A statement and its values.
#[derive(Debug)]
pub struct Statement {
    sql: Arc<str>,
    /// OIDs of the values' types; 0 lets the server decide.
    types: Vec<u32>,
    values: Vec<Option<Vec<u8>>>,
}

impl Statement {
    /// A statement whose values are texts.
    pub fn of_texts<'a>(sql: &Arc<str>, texts: impl IntoIterator<Item = &'a str>) -> Self {
        let values: Vec<_> = texts.into_iter().map(|text| Some(text.into())).collect();
        Self { sql: Arc::clone(sql), types: vec![TEXT; values.len()], values }
    }

    /// The values of a Diesel query, for the SQL that [`sql`] has made of one like it.
    pub fn of_query(sql: &Arc<str>, query: &impl QueryFragment<Pg>) -> QueryResult<Self> {
        let mut collected = RawBytesBindCollector::<Pg>::new();
        query.collect_binds(&mut collected, &mut NoLookup, &Pg)?;
        let types = collected.metadata.iter().map(|it| it.oid().unwrap_or_default()).collect();
        Ok(Self { sql: Arc::clone(sql), types, values: collected.binds })
    }
}

/// The SQL of a Diesel query.
pub fn sql(query: &impl QueryFragment<Pg>) -> QueryResult<Arc<str>> {
    let mut builder = PgQueryBuilder::default();
    query.to_sql(&mut builder, &Pg)?;
    Ok(builder.finish().into())
}

/// The values of the service's queries are of built-in types, whose OIDs Diesel knows.
struct NoLookup;

impl PgMetadataLookup for NoLookup {
    fn lookup_type(&mut self, _: &str, _: Option<&str>) -> PgTypeMetadata {
        PgTypeMetadata::new(0, 0)
    }
}

/// A row as the server sent it, which Diesel reads.
#[derive(Debug, Clone)]
pub struct RawRow {
    bytes: Bytes,
    /// Where each value is; `None` for NULL.
    values: Vec<Option<Range<usize>>>,
    /// OIDs of the columns' types.
    types: Arc<[NonZeroU32]>,
}

impl RawRow {
    /// Whether the first columns are these texts.
    pub fn begins_with<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> bool {
        let mut columns = self.values.iter();
        texts.into_iter().all(|text| {
            let column = columns.next().and_then(Option::as_ref);
            column.is_some_and(|range| self.bytes[range.clone()] == *text.as_bytes())
        })
    }
}

#[cfg(test)]
impl RawRow {
    /// A row of texts.
    pub fn of_texts(texts: &[&str]) -> Self {
        let bytes = texts.concat().into_bytes().into();
        let mut end = 0;
        let values = texts.iter().map(|text| {
            end += text.len();
            Some(end - text.len()..end)
        });
        Self { bytes, values: values.collect(), types: Arc::default() }
    }
}

impl RowSealed for RawRow {}

impl<'a> Row<'a, Pg> for RawRow {
    type Field<'f>
        = RawField<'f>
    where
        'a: 'f,
        Self: 'f;
    type InnerPartialRow = Self;

    fn field_count(&self) -> usize {
        self.values.len()
    }

    fn get<'f, I>(&'f self, index: I) -> Option<RawField<'f>>
    where
        'a: 'f,
        Self: RowIndex<I>,
    {
        Some(RawField { row: self, column: self.idx(index)? })
    }

    fn partial_row(&self, range: Range<usize>) -> PartialRow<'_, Self> {
        PartialRow::new(self, range)
    }
}

impl RowIndex<usize> for RawRow {
    fn idx(&self, column: usize) -> Option<usize> {
        (column < self.values.len() && column < self.types.len()).then_some(column)
    }
}

impl<'a> RowIndex<&'a str> for RawRow {
    /// Columns are read in their order; only `sql_query` reads them by name.
    fn idx(&self, _: &'a str) -> Option<usize> {
        None
    }
}

/// A value of a row.
#[derive(Debug)]
pub struct RawField<'a> {
    row: &'a RawRow,
    column: usize,
}

impl<'a> Field<'a, Pg> for RawField<'a> {
    fn field_name(&self) -> Option<&str> {
        None
    }

    fn value(&self) -> Option<PgValue<'_>> {
        let range = self.row.values[self.column].clone()?;
        Some(PgValue::new(&self.row.bytes[range], &self.row.types[self.column]))
    }
}

/// A statement that the connection has prepared.
#[derive(Debug)]
struct Prepared {
    name: String,
    /// The types of its columns; empty until the server has described them.
    types: Arc<[NonZeroU32]>,
}

/// A connection for flights.
pub struct Lane {
    socket: Socket,
    cancel: CancelToken,
    server: Server,
    prepared: HashMap<Arc<str>, Prepared>,
    /// The bytes of the flight that are not sent yet.
    unsent: BytesMut,
    received: BytesMut,
    /// The flight under way: each statement with the rows so far.
    flight: Vec<(Arc<str>, Vec<RawRow>)>,
    /// The statement of the flight that is being answered.
    current: usize,
    /// When the connection was made.
    born: Instant,
}

impl Lane {
    /// Connects to the first server of the configuration that answers and has the wanted
    /// `target_session_attrs`.
    pub async fn connect(login: &Login) -> Result<Self, ConnectError> {
        connect::first(login, |address| Self::connect_to(login, address)).await
    }

    async fn connect_to(login: &Login, address: Address) -> Result<Self, ConnectError> {
        let (socket, cancel, server) = connect::open_raw(login, address).await?;
        let mut lane = Self {
            socket,
            cancel,
            server,
            prepared: HashMap::new(),
            unsent: BytesMut::new(),
            received: BytesMut::new(),
            flight: Vec::new(),
            current: 0,
            born: Instant::now(),
        };
        let read_only = Statement::of_texts(&"SHOW transaction_read_only".into(), []);
        let answers = lane.fly(&[read_only]).await.map_err(|lost| ConnectError::of(&lost))?;
        let writes = answers.iter().flatten().any(|row| row.begins_with(["off"]));
        connect::require_attributes(login, writes)?;
        Ok(lane)
    }

    /// When the connection was made.
    pub const fn born(&self) -> Instant {
        self.born
    }

    /// Sends the statements and returns the rows of each. They run in their order, in one
    /// transaction that ends with them. After an error the connection cannot be used again; if this
    /// future is dropped, only [`Lane::finish`] may be called.
    pub async fn fly(&mut self, statements: &[Statement]) -> Result<Vec<Vec<RawRow>>, Lost> {
        self.current = 0;
        self.flight.clear();
        for statement in statements {
            self.write(statement)?;
            self.flight.push((Arc::clone(&statement.sql), Vec::new()));
        }
        frontend::sync(&mut self.unsent);
        self.finish().await
    }

    /// Goes on with the flight to its end.
    pub async fn finish(&mut self) -> Result<Vec<Vec<RawRow>>, Lost> {
        while self.unsent.has_remaining() {
            if self.socket.write_buf(&mut self.unsent).await? == 0 {
                return Err(closed());
            }
        }
        self.socket.flush().await?;
        loop {
            while let Some(message) = Message::parse(&mut self.received)? {
                if self.take(message)? {
                    return Ok(self.flight.drain(..).map(|(_, rows)| rows).collect());
                }
            }
            if self.socket.read_buf(&mut self.received).await? == 0 {
                return Err(closed());
            }
        }
    }

    /// Asks the server to cancel the running statement. The connection must then be closed: the
    /// request may arrive late.
    pub async fn cancel(self) {
        match timeout(RECOVERY, self.server.cancel(&self.cancel)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot cancel a statement whose call has ended");
            }
            Err(_) => tracing::warn!("cannot cancel a statement whose call has ended: no answer"),
        }
    }

    fn write(&mut self, Statement { sql, types, values }: &Statement) -> Result<(), Lost> {
        if !self.prepared.contains_key(sql) {
            let name = format!("h{}", self.prepared.len());
            frontend::parse(&name, sql, types.iter().copied(), &mut self.unsent)?;
            frontend::describe(b'S', &name, &mut self.unsent)?;
            self.prepared.insert(Arc::clone(sql), Prepared { name, types: Arc::default() });
        }
        let Some(Prepared { name, .. }) = self.prepared.get(sql) else { return Ok(()) };
        let write = |value: &Option<Vec<u8>>, sent: &mut BytesMut| {
            Ok::<_, Box<dyn StdError + Sync + Send>>(value.as_ref().map_or(IsNull::Yes, |value| {
                sent.put_slice(value);
                IsNull::No
            }))
        };
        frontend::bind("", name, BINARY, values, write, BINARY, &mut self.unsent)
            .map_err(|_| Lost::Protocol("a value is too long"))?;
        frontend::execute("", 0, &mut self.unsent)?;
        Ok(())
    }

    /// Takes a message of the server. Returns whether it was the last of the flight.
    fn take(&mut self, message: Message) -> Result<bool, Lost> {
        match message {
            Message::RowDescription(description) => {
                let mut types = Vec::new();
                let mut fields = description.fields();
                while let Some(field) = fields.next()? {
                    let oid = NonZeroU32::new(field.type_oid());
                    types.push(oid.ok_or(Lost::Protocol("a column without a type"))?);
                }
                let (sql, _) = self.flight.get(self.current).ok_or(UNASKED)?;
                if let Some(prepared) = self.prepared.get_mut(sql) {
                    prepared.types = types.into();
                }
            }
            Message::DataRow(row) => {
                let (sql, rows) = self.flight.get_mut(self.current).ok_or(UNASKED)?;
                let types = self.prepared.get(sql).map(|it| Arc::clone(&it.types));
                let values = row.ranges().collect()?;
                let bytes = row.buffer_bytes().clone();
                rows.push(RawRow { bytes, values, types: types.unwrap_or_default() });
            }
            Message::CommandComplete(_) => self.current += 1,
            Message::ReadyForQuery(ready) if ready.status() == b'I' => {
                return if self.current == self.flight.len() { Ok(true) } else { Err(UNASKED) };
            }
            Message::ReadyForQuery(_) => return Err(Lost::Protocol("the transaction is open")),
            Message::ErrorResponse(error) => return Err(Lost::Server(sqlstate(&error))),
            // A statement that changes nothing has no rows to describe; notices may quote rows.
            _ => {}
        }
        Ok(false)
    }
}

const UNASKED: Lost = Lost::Protocol("more or fewer answers than statements");

fn closed() -> Lost {
    Lost::Socket(io::ErrorKind::UnexpectedEof.into())
}

/// The SQLSTATE of an error.
fn sqlstate(error: &ErrorResponseBody) -> String {
    const SQLSTATE: u8 = b'C';
    let mut fields = error.fields();
    while let Ok(Some(field)) = fields.next() {
        if field.type_() == SQLSTATE {
            return String::from_utf8_lossy(field.value_bytes()).into_owned();
        }
    }
    "unknown".to_owned()
}
