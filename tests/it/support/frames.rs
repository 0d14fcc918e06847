//! A peer that speaks HTTP/2 frame by frame, and as badly as a test wants it to (RFC 9113).

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// The client preface.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The setting of the initial window of each stream.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A frame that the service has sent.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection of the test's own.
pub struct RawPeer {
    pub stream: TcpStream,
    next: u32,
    caller: Vec<(String, String)>,
}

/// A frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A client preface with this initial window of each stream.
pub fn greeting(window: u32) -> Vec<u8> {
    let setting = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &window.to_be_bytes()].concat();
    [PREFACE, &frame(SETTINGS, 0, 0, &setting)].concat()
}

/// Headers without compression (RFC 7541, section 6.2.2).
pub fn header_block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let text = |block: &mut Vec<u8>, text: &str| {
        let mut length = text.len();
        if length < 127 {
            block.push(u8::try_from(length).unwrap());
        } else {
            block.push(127);
            length -= 127;
            while length >= 128 {
                block.push(u8::try_from(length % 128).unwrap() | 128);
                length /= 128;
            }
            block.push(u8::try_from(length).unwrap());
        }
        block.extend(text.as_bytes());
    };
    for (name, value) in headers {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// A message as gRPC sends it.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

impl RawPeer {
    /// A connection on which nothing was sent.
    pub async fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, next: 1, caller: Vec::new() }
    }

    /// A connection that has sent its preface, with this initial window of each stream.
    pub async fn greeted(address: SocketAddr, window: u32) -> Self {
        let mut peer = Self::silent(address).await;
        peer.send(&greeting(window)).await;
        peer
    }

    /// Acknowledges the service's settings and waits for its window of the connection, which it
    /// sends first. Before that a peer may send 64 KiB only.
    pub async fn settle(&mut self) {
        let update = self.until(WINDOW_UPDATE).await;
        assert_eq!(update.stream, 0);
    }

    /// Sets the headers of all later calls.
    pub fn calling_as(mut self, caller: &[(&str, &str)]) -> Self {
        self.caller =
            caller.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self
    }

    /// Sends bytes. Ignores an error: the service may have closed the connection.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// The headers of a call.
    pub fn headers(&self, path: &str) -> Vec<u8> {
        let common = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let caller = self.caller.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        header_block(&common.into_iter().chain(caller).collect::<Vec<_>>())
    }

    /// The number of the next stream.
    pub fn next_stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Begins a call and sends this part of its request, without ending it.
    pub async fn begin(&mut self, path: &str, body: &[u8]) -> u32 {
        let (stream, headers) = (self.next_stream(), self.headers(path));
        self.send(&frame(HEADERS, END_HEADERS, stream, &headers)).await;
        for piece in body.chunks(16 * 1024) {
            self.send(&frame(DATA, 0, stream, piece)).await;
        }
        stream
    }

    /// Makes a call with one message.
    pub async fn call(&mut self, path: &str, bytes: &[u8]) -> u32 {
        let stream = self.begin(path, &message(bytes)).await;
        self.send(&frame(DATA, END_STREAM, stream, b"")).await;
        stream
    }

    /// Opens the window of a stream; of the connection for 0.
    pub async fn give_room(&mut self, stream: u32, bytes: u32) {
        self.send(&frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())).await;
    }

    /// The next frame, or `None` when the connection has ended. Acknowledges settings and pings, as
    /// a good peer does.
    pub async fn read(&mut self) -> Option<Frame> {
        loop {
            let mut header = [0; 9];
            let read = timeout(PATIENCE, self.stream.read_exact(&mut header)).await;
            read.expect("a frame, or the end, in time").ok()?;
            let [a, b, c, kind, flags, s0, s1, s2, s3] = header;
            let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
            self.stream.read_exact(&mut payload).await.ok()?;
            if matches!(kind, SETTINGS | PING) {
                if flags & ACK == 0 {
                    let echo: &[u8] = if kind == PING { &payload } else { b"" };
                    self.send(&frame(kind, ACK, 0, echo)).await;
                }
                continue;
            }
            return Some(Frame {
                kind,
                flags,
                stream: u32::from_be_bytes([s0, s1, s2, s3]),
                payload,
            });
        }
    }

    /// Reads until a frame of this kind comes; fails if the connection ends before.
    pub async fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.read().await.expect("the connection goes on");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Reads until an answer ends and returns its data. Fails if the service resets the stream.
    pub async fn answer(&mut self, stream: u32) -> Vec<u8> {
        let mut data = Vec::new();
        loop {
            let frame = self.read().await.expect("the connection goes on");
            if frame.stream != stream {
                continue;
            }
            assert_ne!(frame.kind, RST_STREAM, "{frame:?}");
            if frame.kind == DATA {
                data.extend(frame.payload);
            }
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return data;
            }
        }
    }

    /// Reads frames until the connection ends.
    pub async fn ended(&mut self) {
        while self.read().await.is_some() {}
    }

    /// Reads bytes until the connection ends, and acknowledges nothing.
    pub async fn cut_off(&mut self) {
        let mut bytes = vec![0; 64 * 1024];
        while timeout(PATIENCE, self.stream.read(&mut bytes))
            .await
            .expect("the end in time")
            .is_ok_and(|read| read > 0)
        {}
    }
}
