//! Request ids (AIP-155): a repeated request changes nothing and returns the first answer.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::digest::{self, SHA256};
use chrono::{DateTime, TimeDelta, Utc};
use diesel::{prelude::*, query_dsl::methods, upsert::excluded};
use diesel_async::RunQueryDsl;

use super::{Change, refusals, tx::WriteTx};
use crate::{
    caller::Caller,
    error::{Error, Result},
    schema::requests,
    validate::Violations,
};

/// Hours for which an answer is stored.
const KEPT_HOURS: i64 = 24;
/// One request in so many deletes expired answers.
const CLEARS: u8 = 32;
/// Most expired answers that one request deletes: more than are stored until the next one does.
const CLEARED: i64 = 64;

/// The fields that every changing request has.
#[derive(Debug)]
pub struct Meta {
    /// The id that the client chose; empty for none.
    pub request_id: String,
    /// Whether the changes are rolled back.
    pub validate_only: bool,
    /// The actor, within whose requests the id must be unique.
    actor: Arc<str>,
    /// A hash of method, actor and request; empty without a request id.
    fingerprint: Vec<u8>,
}

impl Meta {
    /// Reads the meta of a request, and adds the violations of its request id.
    pub fn of(v: &mut Violations, caller: &Caller, request: &impl Change) -> Self {
        let request_id = request.request_id().to_owned();
        v.request_id(&request_id);
        let fingerprint = if request_id.is_empty() {
            Vec::new()
        } else {
            let mut hash = digest::Context::new(&SHA256);
            for part in [caller.method, &*caller.actor] {
                hash.update(part.as_bytes());
                hash.update(&[0]);
            }
            // A `validate_only` call returns the answer that the call without it would, so both
            // have one fingerprint.
            let real = if request.validate_only() {
                request.for_real().encode_to_vec()
            } else {
                request.encode_to_vec()
            };
            hash.update(&real);
            hash.finish().as_ref().to_vec()
        };
        Self {
            request_id,
            validate_only: request.validate_only(),
            actor: Arc::clone(&caller.actor),
            fingerprint,
        }
    }

    /// Returns the encoded answer that this request already got. For the first request, inserts its
    /// id and returns `None`; a repeat then waits for the commit.
    pub(super) async fn first_answer(&self, tx: &WriteTx) -> Result<Option<Vec<u8>>> {
        if self.request_id.is_empty() {
            return Ok(None);
        }
        let forgotten = Utc::now() - TimeDelta::hours(KEPT_HOURS);
        let take = diesel::insert_into(requests::table)
            .values((
                tx.owns(requests::tenant_id),
                requests::actor.eq(&*self.actor),
                requests::request_id.eq(&self.request_id),
                requests::fingerprint.eq(&self.fingerprint),
            ))
            .on_conflict((requests::tenant_id, requests::actor, requests::request_id))
            .do_update()
            .set((
                requests::fingerprint.eq(excluded(requests::fingerprint)),
                requests::create_time.eq(excluded(requests::create_time)),
            ));
        let take = methods::FilterDsl::filter(take, requests::create_time.lt(forgotten));
        let taken = tx.send(take).await?;
        if taken == 1 {
            // The hash is as good as a random number.
            if matches!(*self.fingerprint, [byte, ..] if byte % CLEARS == 0) {
                clear(tx, forgotten).await?;
            }
            return Ok(None);
        }
        let (fingerprint, response) = requests::table
            .filter(tx.owns(requests::tenant_id))
            .filter(requests::actor.eq(&*self.actor).and(requests::request_id.eq(&self.request_id)))
            .select((requests::fingerprint, requests::response))
            .first::<(Vec<u8>, Option<Vec<u8>>)>(&mut tx.conn())
            .await?;
        if fingerprint == self.fingerprint {
            Ok(Some(response.unwrap_or_default()))
        } else {
            Err(refusals::request_id_reused())
        }
    }

    /// Stores the answer.
    pub(super) async fn remember(&self, tx: &WriteTx, response: Vec<u8>) -> Result<()> {
        if self.request_id.is_empty() {
            return Ok(());
        }
        let own = requests::actor.eq(&*self.actor).and(requests::request_id.eq(&self.request_id));
        let row = diesel::update(requests::table.filter(tx.owns(requests::tenant_id)).filter(own));
        match tx.send(row.set(requests::response.eq(Some(response)))).await? {
            1 => Ok(()),
            _ => Err(Error::internal("the row of a request is gone before it has its answer")),
        }
    }
}

/// Deletes some expired answers, so that the table holds about one day.
async fn clear(tx: &WriteTx, forgotten: DateTime<Utc>) -> Result<()> {
    let old = requests::table
        .filter(tx.owns(requests::tenant_id))
        .filter(requests::create_time.lt(forgotten))
        .order(requests::create_time)
        .limit(CLEARED)
        .select((requests::actor, requests::request_id))
        .for_update()
        .skip_locked()
        .load::<(String, String)>(&mut tx.conn())
        .await?;
    let mut by_actor = BTreeMap::<_, Vec<_>>::new();
    for (actor, request_id) in old {
        by_actor.entry(actor).or_default().push(request_id);
    }
    for (actor, request_ids) in by_actor {
        let old = requests::actor.eq(actor).and(requests::request_id.eq_any(request_ids));
        diesel::delete(requests::table.filter(tx.owns(requests::tenant_id)).filter(old))
            .execute(&mut tx.conn())
            .await?;
    }
    Ok(())
}
