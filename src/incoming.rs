//! Connections: accepted up to a bound, encrypted where configured, each with what is known of its peer.
//!
//! A connection is handed on as soon as it is there, and its handshake is made where it is first read: on a task of its own, so
//! that a slow or silent peer holds up nobody else, and the work of handshakes is spread over all cores.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, stream};
use rustls::ServerConnection;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};
use tokio_rustls::{Accept, TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

use crate::{config::Transport, tls};

/// How long a silent peer is left alone before the operating system asks whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long nothing is accepted after the operating system could not (no file descriptors left).
const PAUSE: Duration = Duration::from_millis(100);
/// How often refusals are logged.
const REMINDER: Duration = Duration::from_secs(10);

/// Where connections come from.
pub struct Incoming {
    listener: TcpListener,
    tls: Option<tls::Current>,
    room: Arc<Semaphore>,
    handshake_timeout: Duration,
    refused: u64,
    told: Option<Instant>,
}

impl Incoming {
    /// Connections of this listener, encrypted if there is something to encrypt with.
    pub fn new(listener: TcpListener, tls: Option<tls::Current>, config: &Transport) -> Self {
        let room = Arc::new(Semaphore::new(config.max_connections));
        Self { listener, tls, room, handshake_timeout: config.handshake_timeout, refused: 0, told: None }
    }

    /// The connections, without end. Dropping the stream closes the port.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> + Send {
        stream::unfold(self, async |mut incoming| {
            let connection = incoming.accept().await;
            Some((Ok(connection), incoming))
        })
    }

    async fn accept(&mut self) -> Connection {
        loop {
            match self.listener.accept().await {
                // One too many is closed at once: its peer can try another replica, where it would else wait for nothing.
                Ok((stream, _)) => match Arc::clone(&self.room).try_acquire_owned() {
                    Ok(place) => return self.connection(stream, place),
                    Err(_) => self.tell("--max-connections are open"),
                },
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.tell(&error.to_string());
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn connection(&self, stream: TcpStream, place: OwnedSemaphorePermit) -> Connection {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
        // Neither can fail on a connection that is still there.
        let _ = stream.set_nodelay(true).and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive));
        let io = match &self.tls {
            Some(current) => Io::Handshake(Box::new(TlsAcceptor::from(Arc::clone(&current.borrow())).accept(stream))),
            None => Io::Plain(stream),
        };
        Connection { io, greeting: Some(Box::pin(sleep(self.handshake_timeout))), peer: Peer::default(), _place: place }
    }

    fn tell(&mut self, why: &str) {
        self.refused += 1;
        if self.told.is_none_or(|at| at.elapsed() >= REMINDER) {
            tracing::warn!(why, refused = self.refused, "connections are refused");
            (self.refused, self.told) = (0, Some(Instant::now()));
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::ConnectionRefused | Kind::Interrupted)
}

/// What is known of the peer of a connection; stands in the extensions of its requests.
#[derive(Debug, Clone, Default)]
pub struct Peer(Arc<OnceLock<Option<Arc<str>>>>);

impl Peer {
    /// The workload that the peer's certificate names. Known as soon as there is a request.
    pub fn workload(&self) -> Option<&Arc<str>> {
        self.0.get()?.as_ref()
    }

    fn know(&self, session: &ServerConnection) {
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let _ = self.0.set(certificate.and_then(tls::workload));
    }
}

/// A connection, from before its handshake to its end.
pub struct Connection {
    io: Io,
    /// Until the peer has said a first word of HTTP/2, which it does at once: how long it may take.
    greeting: Option<Pin<Box<Sleep>>>,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

enum Io {
    Plain(TcpStream),
    Handshake(Box<Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
    Failed,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connection {
    /// Makes the handshake, unless it is made, and keeps an eye on the clock until the peer has spoken.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(greeting) = &mut self.greeting
            && greeting.as_mut().poll(cx).is_ready()
        {
            self.io = Io::Failed;
            tracing::debug!("a connection was closed: no TLS handshake or no HTTP/2 within --handshake-timeout");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let Io::Handshake(accept) = &mut self.io else { return Poll::Ready(Ok(())) };
        match ready!(Pin::new(accept).poll(cx)) {
            Ok(stream) => {
                self.peer.know(stream.get_ref().1);
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
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?;
        let before = buffer.filled().len();
        ready!(with_io!(&mut self.io, io => Pin::new(io).poll_read(cx, buffer), else gone()))?;
        if buffer.filled().len() > before {
            self.greeting = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        with_io!(&mut self.io, io => Pin::new(io).poll_write(cx, bytes), else gone())
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        with_io!(&mut self.io, io => Pin::new(io).poll_write_vectored(cx, bytes), else gone())
    }

    fn is_write_vectored(&self) -> bool {
        with_io!(&self.io, io => io.is_write_vectored(), else true)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?;
        with_io!(&mut self.io, io => Pin::new(io).poll_flush(cx), else gone())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_io!(&mut self.io, io => Pin::new(io).poll_shutdown(cx), else Poll::Ready(Ok(())))
    }
}
