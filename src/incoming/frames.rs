//! The HTTP/2 frames that a peer sends: whether one of them is incomplete, and whether too many of
//! them belong to no call.

use std::time::Duration;

use tokio::time::Instant;

/// Most frames a second that are neither DATA nor belong to a call. A client that receives a
/// hundred megabytes a second sends at most this many `WINDOW_UPDATE` frames. Every other such
/// frame counts as five, because most of them must be acknowledged.
const MAX_CONTROL_FRAMES: usize = 10_000;
const OTHER_WEIGHT: usize = 5;

/// Follows the frames of a connection by their headers and lengths (RFC 9113, sections 3.4 and
/// 4.1). hyper reports a block of headers only once it is whole, so a late one can be noticed only
/// here.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes received of the preface; after the preface, of the current frame's header.
    received: usize,
    /// Whether the preface and the first frame, which together are the greeting, have arrived.
    greeted: bool,
    after_preface: bool,
    header: [u8; Self::HEADER],
    /// Bytes of the current frame's payload that are still to come.
    left: usize,
    /// Whether a block of headers has begun and not ended.
    in_headers: bool,
    /// Frames begun since the last reset by the reader.
    pub(super) begun: usize,
    /// Frames that are neither DATA nor belong to a call, weighted as [`MAX_CONTROL_FRAMES`] says.
    /// Answering them is work that no call asked for.
    control: usize,
    /// When counting `control` began.
    counted: Instant,
}

impl Frames {
    /// Length of the client's preface, which precedes its first frame.
    const PREFACE: usize = 24;
    const HEADER: usize = 9;
    /// Frame types, and the flag of the frame that ends a block of headers.
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;
    const END_HEADERS: u8 = 4;

    pub(super) fn new() -> Self {
        Self {
            received: 0,
            greeted: false,
            after_preface: false,
            header: [0; Self::HEADER],
            left: 0,
            in_headers: false,
            begun: 0,
            control: 0,
            counted: Instant::now(),
        }
    }

    /// Follows the next bytes. Returns whether something that was incomplete has become complete: a
    /// greeting, a block of headers, or the header of a frame.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> bool {
        let mut ended = false;
        let only_in_frame_header = self.greeted && !self.in_headers && self.in_frame_header();
        while !bytes.is_empty() {
            if !self.after_preface {
                let taken = bytes.len().min(Self::PREFACE - self.received);
                self.received += taken;
                bytes = bytes.get(taken..).unwrap_or_default();
                if self.received == Self::PREFACE {
                    (self.after_preface, self.received) = (true, 0);
                }
                continue;
            }
            if self.received < Self::HEADER {
                for (slot, byte) in self.header.iter_mut().skip(self.received).zip(bytes) {
                    *slot = *byte;
                }
                let taken = bytes.len().min(Self::HEADER - self.received);
                self.received += taken;
                bytes = bytes.get(taken..).unwrap_or_default();
                if self.received < Self::HEADER {
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
                    _ => OTHER_WEIGHT,
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
                (self.greeted, self.received) = (true, 0);
            }
        }
        ended
    }

    /// Whether the peer exceeds [`MAX_CONTROL_FRAMES`]. The clock is read only once per that many
    /// frames. hyper itself limits the frames that belong to calls.
    pub(super) fn exceeds_limit(&mut self) -> bool {
        if self.control < MAX_CONTROL_FRAMES {
            return false;
        }
        self.control = 0;
        let began = std::mem::replace(&mut self.counted, Instant::now());
        began.elapsed() < Duration::from_secs(1)
    }

    /// Whether a greeting, a block of headers or a frame header has begun and not ended.
    pub(super) const fn incomplete(&self) -> bool {
        !self.greeted || self.in_headers || self.in_frame_header()
    }

    /// Whether part of a frame's header has arrived.
    const fn in_frame_header(&self) -> bool {
        0 < self.received && self.received < Self::HEADER
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

    /// `Frames` tells after each piece whether a greeting or a block of headers is incomplete, also
    /// if the pieces arrive byte by byte.
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
        // One block ends and another begins in the same read: the second has a time of its own.
        assert!(whole.read(&[frame(1, 4, b"x"), open].concat()) && whole.incomplete());
        // A frame header that is cut at the end of a read, too, has a time of its own, unless it is
        // inside a block.
        let mut cut = Frames::new();
        cut.read(&[PREFACE, &settings, &ping[..4]].concat());
        assert!(cut.read(&[&ping[4..], &ping[..4]].concat()) && cut.incomplete());
        cut.read(&[&ping[4..], &frame(1, 0, b"x"), &more[..4]].concat());
        assert!(!cut.read(&more[4..]) && cut.incomplete());
    }
}
