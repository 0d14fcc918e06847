//! Buffers: the bytes of requests that are being received, and of answers that their peers have not
//! read yet.
//!
//! The limit of calls does not limit these bytes: a thousand requests of a megabyte that never end,
//! or as many answers that nobody reads, would take a gigabyte. So all of them are counted, for the
//! service and for each tenant.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http_body::{Frame, SizeHint};
use prost::bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, body::Body};

use crate::{
    caller::TenantId,
    error::{Error, Result},
    share::{Percent, Shares},
};

/// Size in bytes of a unit; buffers are counted in units.
const UNIT: usize = 1024;
/// The header of each message of a request: whether it is compressed, and its length in four bytes.
const HEADER: usize = 5;
/// Bytes of each request and each answer that are not counted. Most are not larger than this; the
/// limit of calls limits these bytes.
const UNCOUNTED: usize = 16 * 1024;

/// The bytes that calls may hold. Clones share the same limits.
#[derive(Debug, Clone)]
pub struct Buffers {
    units: Arc<Semaphore>,
    shares: Shares,
}

/// Bytes that a call holds; given back when dropped.
#[derive(Debug)]
pub struct Buffered {
    units: OwnedSemaphorePermit,
    share: OwnedSemaphorePermit,
}

impl Buffered {
    /// Adds units of the same tenant.
    fn grow(&mut self, more: Self) {
        self.units.merge(more.units);
        self.share.merge(more.share);
    }

    /// Gives back the units that an answer no longer needs, which now has this many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let surplus = self.units.num_permits().saturating_sub(counted(bytes));
        // Dropping the split-off permits gives them back.
        let _ = (self.units.split(surplus), self.share.split(surplus));
    }
}

/// The units that this many bytes of one request or answer count as.
const fn counted(bytes: usize) -> usize {
    bytes.saturating_sub(UNCOUNTED).div_ceil(UNIT)
}

impl Buffers {
    /// Limits all calls together to `bytes`, and each tenant to `share` of it.
    pub fn new(bytes: usize, share: Percent) -> Self {
        let units = bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), shares: Shares::new(units, share) }
    }

    /// Counts an answer of this many bytes.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the tenant, or all tenants together, would hold too much.
    pub fn hold_answer(&self, tenant: &TenantId, bytes: usize) -> Result<Option<Buffered>> {
        let counted = counted(bytes);
        if counted == 0 { Ok(None) } else { self.hold(tenant, counted).map(Some) }
    }

    fn hold(&self, tenant: &TenantId, units: usize) -> Result<Buffered> {
        let too_many = || Error::overloaded("max_buffered_bytes");
        let units = u32::try_from(units).map_err(|_| too_many())?;
        let share = self.shares.try_take(tenant, units);
        let share = share.ok_or_else(|| Error::overloaded("tenant_share"))?;
        let all = Arc::clone(&self.units).try_acquire_many_owned(units);
        Ok(Buffered { units: all.map_err(|_| too_many())?, share })
    }
}

/// The body of a request. Its bytes are counted as they arrive, until it is dropped. Those of a
/// stream's message are counted until the call asks for the next one.
pub struct Metered {
    body: Body,
    buffers: Buffers,
    tenant: TenantId,
    /// Bytes that are counted.
    received: usize,
    /// Units of these bytes.
    units: usize,
    held: Option<Buffered>,
    /// Of a request that is a stream: where its last message stands.
    stream: Option<Unfinished>,
}

/// The message of a stream that has not arrived whole.
#[derive(Default)]
struct Unfinished {
    header: [u8; HEADER],
    /// Bytes of the message, header included, that have arrived.
    arrived: usize,
}

impl Unfinished {
    /// Goes on to the message in which these bytes end.
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let Some(place) = self.header.get_mut(self.arrived) {
                *place = byte;
                self.arrived += 1;
                bytes = rest;
            } else {
                let taken = bytes.len().min(self.length() - self.arrived);
                self.arrived += taken;
                bytes = &bytes[taken..];
            }
            if self.arrived >= HEADER && self.arrived == self.length() {
                self.arrived = 0;
            }
        }
    }

    /// The length of the message, header included.
    fn length(&self) -> usize {
        let [_, length @ ..] = self.header;
        HEADER.saturating_add(u32::from_be_bytes(length) as usize)
    }
}

impl Metered {
    /// The request body of a caller of this tenant.
    pub const fn new(body: Body, buffers: Buffers, tenant: TenantId) -> Self {
        Self { body, buffers, tenant, received: 0, units: 0, held: None, stream: None }
    }

    /// [`Metered::new`] for a request that may be a stream of messages.
    #[must_use]
    pub fn of_stream(self, is_stream: bool) -> Self {
        Self { stream: is_stream.then(Unfinished::default), ..self }
    }

    fn count(&mut self, bytes: &[u8]) -> Result<()> {
        self.received += bytes.len();
        if let Some(stream) = &mut self.stream {
            stream.pass(bytes);
        }
        let units = counted(self.received);
        if units > self.units {
            let more = self.buffers.hold(&self.tenant, units - self.units)?;
            match &mut self.held {
                Some(held) => held.grow(more),
                held => *held = Some(more),
            }
            self.units = units;
        }
        Ok(())
    }

    /// Gives back the bytes of the messages before the last one, if that has not arrived whole, or
    /// of all: the call has taken them, because it asks for more.
    fn forget(&mut self) {
        let Some(stream) = &self.stream else { return };
        self.received = stream.arrived;
        self.units = counted(self.received);
        if let Some(held) = &mut self.held {
            held.shrink(self.received);
        }
    }
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.forget();
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(error) = self.count(data)
        {
            return Poll::Ready(Some(Err(error.into())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_for_the_tenant_and_in_all_and_given_back() {
        let buffers = Buffers::new(100 * UNIT, Percent::parse("50").unwrap());
        let tenant = |name| TenantId::parse(name).unwrap();
        let hold =
            |name, units: usize| buffers.hold_answer(&tenant(name), UNCOUNTED + units * UNIT);
        assert!(hold("a", 0).unwrap().is_none(), "small answers are not counted");
        let (first, second) = (hold("a", 30).unwrap(), hold("a", 20).unwrap());
        assert!(hold("a", 1).is_err() && hold("b", 51).is_err());
        let third = hold("b", 50).unwrap();
        assert!(hold("c", 1).is_err(), "all together");
        drop((first, third));
        let mut fourth = hold("a", 30).unwrap().unwrap();
        assert!(hold("a", 1).is_err());
        fourth.shrink(UNCOUNTED + 10 * UNIT);
        assert!(hold("a", 21).is_err());
        hold("a", 20).unwrap();
        drop(second);
    }

    #[test]
    fn a_request_is_counted_once_however_it_is_cut() {
        let buffers = Buffers::new(100 * UNIT, Percent::ALL);
        let tenant = TenantId::parse("a").unwrap();
        let mut request = Metered::new(Body::empty(), buffers.clone(), tenant.clone());
        for _ in 0..UNCOUNTED + 60 * UNIT {
            request.count(&[0]).unwrap();
        }
        assert_eq!(buffers.units.available_permits(), 40);
        assert!(request.count(&vec![0; 41 * UNIT]).is_err());
        drop(request);
        assert_eq!(buffers.units.available_permits(), 100);
    }

    #[test]
    fn a_message_of_a_stream_is_counted_until_the_next_is_asked_for() {
        let buffers = Buffers::new(100 * UNIT, Percent::ALL);
        let tenant = TenantId::parse("a").unwrap();
        let left = || buffers.units.available_permits();
        let message = |length: usize| {
            let header = [&[0][..], &u32::try_from(length).unwrap().to_be_bytes()].concat();
            [header, vec![7; length]].concat()
        };
        // Two messages and the beginning of a third, in pieces of every size.
        let bytes = [message(30 * UNIT), message(0), message(40 * UNIT)[..20 * UNIT].to_vec()];
        let bytes = bytes.concat();
        for piece in [1, 3, 5, 1000, bytes.len()] {
            let mut request =
                Metered::new(Body::empty(), buffers.clone(), tenant.clone()).of_stream(true);
            for piece in bytes.chunks(piece) {
                request.count(piece).unwrap();
            }
            assert_eq!(left(), 100 - (50 - 16 + 1), "{piece}");
            request.forget();
            assert_eq!(left(), 100 - 4, "{piece}: what has arrived of the third");
            request.count(&vec![7; 20 * UNIT + HEADER]).unwrap();
            request.forget();
            assert_eq!(left(), 100, "{piece}");
        }
        let mut call = Metered::new(Body::empty(), buffers.clone(), tenant);
        call.count(&message(30 * UNIT)).unwrap();
        call.forget();
        assert!(left() < 100, "a call that is no stream keeps its message while it waits");
    }
}
