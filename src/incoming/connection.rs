//! One connection: its TLS handshake, its bytes, and what they show of the peer.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::{Accept, TlsAcceptor, server::TlsStream};

use super::{addresses::Counted, frames::Frames};
use crate::peer::{Peer, log_cut_off};

/// Frames read in a row after which the task yields. hyper would go on reading this connection as
/// long as bytes arrive, which could keep other connections waiting for a second.
const FRAMES_AT_ONCE: usize = 64;

/// A connection, from before its handshake to its end.
pub struct Connection {
    io: Io,
    frames: Frames,
    peer: Peer,
    /// Given back when the connection is dropped.
    _counted: (OwnedSemaphorePermit, Counted),
}

enum Io {
    Plain(TcpStream),
    Handshake(Box<Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
    Failed,
}

impl Connection {
    /// A connection that was just accepted, with TLS if `tls` is given.
    pub(super) fn new(
        stream: TcpStream,
        tls: Option<Arc<ServerConfig>>,
        peer: Peer,
        counted: (OwnedSemaphorePermit, Counted),
    ) -> Self {
        let io = match tls {
            Some(tls) => Io::Handshake(Box::new(TlsAcceptor::from(tls).accept(stream))),
            None => Io::Plain(stream),
        };
        Self { io, frames: Frames::new(), peer, _counted: counted }
    }

    /// The peer of this connection.
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Completes the handshake, if there is one and it has not completed yet.
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

    /// Records whether the peer takes the bytes that it is sent.
    fn record_blocked<T>(&self, sent: Poll<T>) -> Poll<T> {
        self.peer.set_blocked(sent.is_pending());
        sent
    }
}

/// Calls a method of the stream, plain or TLS.
macro_rules! with_io {
    ($io:expr, $stream:ident => $work:expr, else $absent:expr) => {
        match $io {
            Io::Plain($stream) => $work,
            Io::Tls($stream) => $work,
            Io::Handshake(_) | Io::Failed => $absent,
        }
    };
}

fn not_connected<T>() -> Poll<io::Result<T>> {
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
        ready!(
            with_io!(&mut self.io, io => Pin::new(io).poll_read(cx, buffer), else not_connected())
        )?;
        let Self { frames, peer, .. } = &mut *self;
        if frames.read(buffer.filled().get(before..).unwrap_or_default()) {
            peer.set_incomplete(false);
        }
        peer.set_incomplete(frames.incomplete());
        if frames.exceeds_limit() {
            self.io = Io::Failed;
            log_cut_off("too many frames of HTTP/2 that belong to no call");
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
        let written =
            with_io!(&mut self.io, io => Pin::new(io).poll_write(cx, bytes), else not_connected());
        self.record_blocked(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        let written = with_io!(
            &mut self.io,
            io => Pin::new(io).poll_write_vectored(cx, bytes),
            else not_connected()
        );
        self.record_blocked(written)
    }

    fn is_write_vectored(&self) -> bool {
        with_io!(&self.io, io => io.is_write_vectored(), else true)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?;
        let flushed =
            with_io!(&mut self.io, io => Pin::new(io).poll_flush(cx), else not_connected());
        self.record_blocked(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_io!(&mut self.io, io => Pin::new(io).poll_shutdown(cx), else Poll::Ready(Ok(())))
    }
}
