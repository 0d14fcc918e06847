//! Connections: accepted up to a bound, encrypted where configured, each with what is known of its
//! peer.
//!
//! A connection is handed on as soon as it is there, and its handshake is made where it is first
//! read: on a task of its own, so that a slow or silent peer holds up nobody else, and the work of
//! handshakes is spread over all cores.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};
use tokio_rustls::{Accept, TlsAcceptor, server::TlsStream};

use crate::{config::Transport, peer::Peer, telemetry::Seldom, tls, transport};

/// How long a silent peer is left alone before the operating system asks whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long nothing is accepted after the operating system could not (no file descriptors left).
const PAUSE: Duration = Duration::from_millis(100);
/// Frames in one read after which other connections have their turn. HTTP/2 would go on with this
/// one for as long as there is something to read, which may be a second of work.
const FRAMES_AT_ONCE: usize = 64;
/// Most frames in a second that are neither data nor of a call: updates of windows, of which a
/// client that takes a hundred megabytes a second sends no more. Others, most of which must be
/// acknowledged, count five times.
const MAX_CONTROL_FRAMES: usize = 10_000;
const OTHERS_COUNT: usize = 5;
/// How often each reason for which connections are refused is logged.
static REFUSED: Seldom = Seldom::new(Duration::from_secs(10));

/// Where connections come from. Dropping it closes the port.
pub struct Incoming {
    listener: TcpListener,
    tls: Option<tls::Current>,
    config: Transport,
    permits: Arc<Semaphore>,
    addresses: Addresses,
}

impl Incoming {
    /// Connections of this listener, encrypted if there is something to encrypt with.
    pub fn new(listener: TcpListener, tls: Option<tls::Current>, config: &Transport) -> Self {
        let permits = Arc::new(Semaphore::new(config.max_connections));
        Self { listener, tls, config: config.clone(), permits, addresses: Addresses::default() }
    }

    /// The next connection. One too many is closed at once: its peer can try another replica, where
    /// it would else wait for nothing.
    pub async fn accept(&mut self) -> Connection {
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    tell("the operating system gives none", Some(&error));
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                tell("--max-connections are open", None);
                continue;
            };
            match self.addresses.enter(address.ip(), self.config.max_connections_per_peer) {
                Some(address) => {
                    return self.connection(stream, Held { _permit: permit, _address: address });
                }
                None => tell("--max-connections-per-peer are open from one address", None),
            }
        }
    }

    fn connection(&self, stream: TcpStream, held: Held) -> Connection {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
        // Neither can fail on a connection that is still there.
        let _ = stream
            .set_nodelay(true)
            .and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive));
        let io = match &self.tls {
            Some(current) => Io::Handshake(Box::new(
                TlsAcceptor::from(Arc::clone(&current.borrow())).accept(stream),
            )),
            None => Io::Plain(stream),
        };
        Connection { io, frames: Frames::new(), peer: Peer::new(&self.config), _held: held }
    }
}

fn tell(cause: &'static str, error: Option<&io::Error>) {
    if let Some(unlogged) = REFUSED.due(cause) {
        tracing::warn!(
            cause,
            error = error.map(|error| error as &dyn std::error::Error),
            unlogged,
            "connections are refused"
        );
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::Interrupted
    )
}

/// How many connections there are from each address.
#[derive(Debug, Clone, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Addresses {
    /// Counts one more connection from the address, unless there are `most` already.
    fn enter(&self, address: IpAddr, most: usize) -> Option<Address> {
        let address = network(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        (*count < most).then(|| {
            *count += 1;
            Address { all: self.clone(), address }
        })
    }
}

/// What counts as one address: of IPv6 the first half, for whoever has one address there has all
/// with the same beginning.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

/// A connection in the count of its address; leaves it when dropped.
#[derive(Debug)]
struct Address {
    all: Addresses,
    address: IpAddr,
}

impl Drop for Address {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// What a connection holds as long as it is there.
struct Held {
    _permit: OwnedSemaphorePermit,
    _address: Address,
}

/// The frames that have been read of a connection, as far as their beginnings and lengths go (RFC
/// 9113, sections 3.4 and 4.1). HTTP/2 says nothing to anybody before a block of headers is whole,
/// so whether one is late shows only here.
#[derive(Debug)]
struct Frames {
    /// Bytes of the preface that have come; after it, bytes of the present frame's header.
    come: usize,
    /// Whether the preface and the first frame, which are the greeting, have come.
    greeted: bool,
    preface_is_over: bool,
    header: [u8; Self::HEADER],
    /// Bytes of the present frame's payload that are still to come.
    left: usize,
    /// Whether a block of headers has begun that has not ended.
    in_headers: bool,
    /// Frames that have begun.
    begun: usize,
    /// Frames that are neither data nor of a call: acknowledging them is work that nobody has asked
    /// for.
    control: usize,
    /// Since when they are counted.
    counted: Instant,
}

impl Frames {
    /// Length of the client's preface, which its first frame follows.
    const PREFACE: usize = 24;
    const HEADER: usize = 9;
    /// Types of frames, and the flag of those that end a block of headers.
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;
    const END_HEADERS: u8 = 4;

    fn new() -> Self {
        Self {
            come: 0,
            greeted: false,
            preface_is_over: false,
            header: [0; Self::HEADER],
            left: 0,
            in_headers: false,
            begun: 0,
            control: 0,
            counted: Instant::now(),
        }
    }

    /// Reads on, and tells whether something that was incomplete has ended: a greeting, a block of
    /// headers, or the header of a frame.
    fn read(&mut self, mut bytes: &[u8]) -> bool {
        let mut ended = false;
        let only_in_frame_header = self.greeted && !self.in_headers && self.in_frame_header();
        while !bytes.is_empty() {
            if !self.preface_is_over {
                let taken = bytes.len().min(Self::PREFACE - self.come);
                self.come += taken;
                bytes = bytes.get(taken..).unwrap_or_default();
                if self.come == Self::PREFACE {
                    (self.preface_is_over, self.come) = (true, 0);
                }
                continue;
            }
            if self.come < Self::HEADER {
                for (slot, byte) in self.header.iter_mut().skip(self.come).zip(bytes) {
                    *slot = *byte;
                }
                let taken = bytes.len().min(Self::HEADER - self.come);
                self.come += taken;
                bytes = bytes.get(taken..).unwrap_or_default();
                if self.come < Self::HEADER {
                    break;
                }
                ended |= only_in_frame_header;
                let [a, b, c, kind, ..] = self.header;
                self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.in_headers |= kind == Self::HEADERS;
                self.begun += 1;
                self.control += match kind {
                    Self::DATA | Self::HEADERS | Self::RST_STREAM | Self::CONTINUATION => 0,
                    Self::WINDOW_UPDATE => 1,
                    _ => OTHERS_COUNT,
                };
            }
            let taken = bytes.len().min(self.left);
            self.left -= taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.left == 0 {
                let [_, _, _, kind, flags, ..] = self.header;
                let ends = matches!(kind, Self::HEADERS | Self::CONTINUATION)
                    && flags & Self::END_HEADERS != 0;
                ended |= ends || !self.greeted;
                self.in_headers &= !ends;
                (self.greeted, self.come) = (true, 0);
            }
        }
        ended
    }

    /// Whether there were more frames of no call than a good peer sends. Looks at the clock once
    /// for each so many of them. The number of frames of calls is bounded by HTTP/2 itself.
    fn is_flood(&mut self) -> bool {
        if self.control < MAX_CONTROL_FRAMES {
            return false;
        }
        self.control = 0;
        let began = std::mem::replace(&mut self.counted, Instant::now());
        began.elapsed() < Duration::from_secs(1)
    }

    /// Whether more of a greeting, of a block of headers or of the header of a frame must come.
    const fn incomplete(&self) -> bool {
        !self.greeted || self.in_headers || self.in_frame_header()
    }

    /// Whether a part of a frame's header has come.
    const fn in_frame_header(&self) -> bool {
        0 < self.come && self.come < Self::HEADER
    }
}

/// A connection, from before its handshake to its end.
pub struct Connection {
    io: Io,
    frames: Frames,
    peer: Peer,
    _held: Held,
}

enum Io {
    Plain(TcpStream),
    Handshake(Box<Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
    Failed,
}

impl Connection {
    /// Who is at the other end.
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Makes the handshake, unless it is made.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Io::Handshake(accept) = &mut self.io else { return Poll::Ready(Ok(())) };
        match ready!(Pin::new(accept).poll(cx)) {
            Ok(stream) => {
                self.peer.identify(stream.get_ref().1);
                self.io = Io::Tls(Box::new(stream));
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                self.io = Io::Failed;
                tracing::info!(%error, "a TLS handshake has failed");
                Poll::Ready(Err(error))
            }
        }
    }

    /// Notes whether the peer takes what it is sent.
    fn note<T>(&self, sent: Poll<T>) -> Poll<T> {
        self.peer.set_blocked(sent.is_pending());
        sent
    }
}

/// Calls a method of whatever the connection is by now.
macro_rules! with_io {
    ($io:expr, $stream:ident => $work:expr, else $absent:expr) => {
        match $io {
            Io::Plain($stream) => $work,
            Io::Tls($stream) => $work,
            Io::Handshake(_) | Io::Failed => $absent,
        }
    };
}

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?;
        if std::mem::take(&mut self.frames.begun) > FRAMES_AT_ONCE {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(with_io!(&mut self.io, io => Pin::new(io).poll_read(cx, buffer), else gone()))?;
        let Self { frames, peer, .. } = &mut *self;
        if frames.read(buffer.filled().get(before..).unwrap_or_default()) {
            peer.set_incomplete(false);
        }
        peer.set_incomplete(frames.incomplete());
        if frames.is_flood() {
            self.io = Io::Failed;
            transport::tell_cut_off("too many frames of HTTP/2 that belong to no call");
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        let written = with_io!(&mut self.io, io => Pin::new(io).poll_write(cx, bytes), else gone());
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        let written =
            with_io!(&mut self.io, io => Pin::new(io).poll_write_vectored(cx, bytes), else gone());
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        with_io!(&self.io, io => io.is_write_vectored(), else true)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?;
        let flushed = with_io!(&mut self.io, io => Pin::new(io).poll_flush(cx), else gone());
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_io!(&mut self.io, io => Pin::new(io).poll_shutdown(cx), else Poll::Ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What is incomplete after each of these pieces, however they are cut.
    #[test]
    fn greetings_and_blocks_of_headers_are_seen_to_their_end() {
        let (settings, data, ping) =
            (frame(4, 0, &[0; 12]), frame(0, 1, &[1; 300]), frame(6, 0, &[4; 8]));
        let (open, more, end) = (frame(1, 0, &[4; 40]), frame(9, 0, b""), frame(9, 4, b"end"));
        let pieces = [
            (PREFACE, true),
            (&settings[..8], true),
            (&settings[8..20], true),
            (&settings[20..], false),
            (&ping, false),
            (&ping[..4], true),
            (&ping[4..], false),
            (&open[..9], true),
            (&open[9..], true),
            (&more, true),
            (&end, false),
            (&data, false),
            (&frame(1, 4, b"whole"), false),
        ];
        let mut whole = Frames::new();
        for (piece, incomplete) in pieces {
            whole.read(piece);
            assert_eq!(whole.incomplete(), incomplete, "{piece:?}");
            let mut bytewise = Frames::new();
            for (earlier, _) in pieces.iter().take_while(|(earlier, _)| *earlier != piece) {
                for byte in *earlier {
                    bytewise.read(&[*byte]);
                }
            }
            for byte in piece {
                bytewise.read(&[*byte]);
            }
            assert_eq!(bytewise.incomplete(), incomplete, "byte by byte: {piece:?}");
        }
        // A block that ends and another that begins in the same read: the second has its own time.
        assert!(whole.read(&[frame(1, 4, b"x"), open].concat()) && whole.incomplete());
        // So have two headers of frames that are cut off at the ends of reads, unless they are
        // within a block.
        let mut cut = Frames::new();
        cut.read(&[PREFACE, &settings, &ping[..4]].concat());
        assert!(cut.read(&[&ping[4..], &ping[..4]].concat()) && cut.incomplete());
        cut.read(&[&ping[4..], &frame(1, 0, b"x"), &more[..4]].concat());
        assert!(!cut.read(&more[4..]) && cut.incomplete());
    }

    #[test]
    fn addresses_are_counted_by_network() {
        let addresses = Addresses::default();
        let enter = |address: &str| addresses.enter(address.parse().unwrap(), 2);
        let held = [
            enter("192.0.2.1"),
            enter("::ffff:192.0.2.1"),
            enter("192.0.2.2"),
            enter("2001:db8::1"),
            enter("2001:db8::2:1"),
        ];
        assert!(held.iter().all(Option::is_some));
        assert!(enter("192.0.2.1").is_none() && enter("2001:db8::3").is_none());
        assert!(enter("2001:db8:0:1::1").is_some());
        drop(held);
        assert!(addresses.0.lock().unwrap().is_empty());
    }
}
