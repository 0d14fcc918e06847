//! The calls that wait for a connection of hot reads.

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;

use super::flight::{Answer, Asked};
use crate::caller::TenantId;

/// Most questions of a flight.
const FLIGHT: usize = 64;
/// Most questions of one tenant in a flight: a tenant with many delays another's by one flight.
const OF_A_TENANT: usize = 32;

/// A call that waits for a connection.
pub(super) struct Waiting {
    pub(super) asked: Asked,
    pub(super) back: oneshot::Sender<Answer>,
}

/// The calls that wait, in the order in which their tenants have their turn.
#[derive(Default)]
pub(super) struct Queue {
    turns: VecDeque<TenantId>,
    waiting: HashMap<TenantId, VecDeque<Waiting>>,
}

impl Queue {
    /// How many calls wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    pub(super) fn push(&mut self, call: Waiting) {
        let tenant = &call.asked.tenant;
        if let Some(waiting) = self.waiting.get_mut(tenant) {
            waiting.push_back(call);
        } else {
            self.turns.push_back(tenant.clone());
            self.waiting.insert(tenant.clone(), [call].into());
        }
    }

    /// Takes the calls of the next flight, those of a tenant together.
    pub(super) fn take(&mut self) -> Vec<Waiting> {
        let mut taken = Vec::new();
        for _ in 0..self.turns.len() {
            let Some(tenant) = self.turns.pop_front() else { break };
            let Some(waiting) = self.waiting.get_mut(&tenant) else { continue };
            let most = waiting.len().min(OF_A_TENANT).min(FLIGHT - taken.len());
            taken.extend(waiting.drain(..most));
            if waiting.is_empty() {
                self.waiting.remove(&tenant);
            } else {
                self.turns.push_back(tenant);
            }
            if taken.len() == FLIGHT {
                break;
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::{super::flight::tests::asked, *};

    #[test]
    fn tenants_take_turns_however_many_calls_one_has() {
        let mut queue = Queue::default();
        let mut push = |tenant: &str, calls: usize| {
            for call in 0..calls {
                let (back, _) = oneshot::channel();
                queue.push(Waiting { asked: asked(tenant, &call.to_string()), back });
            }
        };
        push("many", 10_000);
        push("few", 2);
        push("last", 40);
        let sizes = |taken: &[Waiting]| -> Vec<(String, usize)> {
            let tenants = taken.chunk_by(|one, other| one.asked.tenant == other.asked.tenant);
            tenants.map(|calls| (calls[0].asked.tenant.to_string(), calls.len())).collect()
        };
        let of = |tenant: &str, calls| (tenant.to_owned(), calls);
        let first = queue.take();
        assert_eq!(sizes(&first), [of("many", 32), of("few", 2), of("last", 30)]);
        assert_eq!(first[31].asked.key, ["31"], "in the order of arrival");
        assert_eq!(sizes(&queue.take()), [of("many", 32), of("last", 10)]);
        assert_eq!(sizes(&queue.take()), [of("many", 32)]);
        let mut rest = 0;
        while let taken @ 1.. = queue.take().len() {
            rest += taken;
        }
        assert_eq!(rest, 10_000 - 3 * 32);
    }
}
