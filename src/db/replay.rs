//! Request ids (AIP-155): a repeated request gets the first answer again and changes nothing.

use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use chrono::{DateTime, TimeDelta, Utc};
use diesel::{prelude::*, query_dsl::methods, upsert::excluded};
use diesel_async::RunQueryDsl;

use super::{Change, refusals, tx::WriteTx};
use crate::{caller::Caller, error::Result, schema::requests, validate::Violations};

/// How long an answer is kept, in hours.
const KEPT_HOURS: i64 = 24;
/// How many forgotten answers each remembered one clears away.
const CLEARED: i64 = 2;

/// What a changing request says about itself.
#[derive(Debug)]
pub struct Meta {
    /// The id the client chose, or empty.
    pub request_id: String,
    /// Whether to keep nothing.
    pub validate_only: bool,
    /// Who chose the id: each actor has a name space of their own.
    actor: Arc<str>,
    /// Tells this request from every other; only made when there is an id.
    fingerprint: Vec<u8>,
}

impl Meta {
    /// Reads the meta of a request, and notes what its request id violates.
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
            // With `validate_only` the answer is the one that the call without it would get.
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

    /// The encoded answer that this request already got, or `None` if it is the first: then the id
    /// is taken, and a repeat that comes in before the commit waits for it.
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
        let taken = methods::FilterDsl::filter(take, requests::create_time.lt(forgotten))
            .execute(&mut tx.conn())
            .await?;
        if taken == 1 {
            clear(tx, forgotten).await?;
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

    /// Keeps the answer.
    pub(super) async fn remember(&self, tx: &WriteTx, response: Vec<u8>) -> Result<()> {
        if self.request_id.is_empty() {
            return Ok(());
        }
        let own = requests::actor.eq(&*self.actor).and(requests::request_id.eq(&self.request_id));
        diesel::update(requests::table.filter(tx.owns(requests::tenant_id)).filter(own))
            .set(requests::response.eq(Some(response)))
            .execute(&mut tx.conn())
            .await?;
        Ok(())
    }
}

/// Deletes a few answers that are too old, so that the table stays as large as a day.
async fn clear(tx: &WriteTx, forgotten: DateTime<Utc>) -> Result<()> {
    let ids = requests::table
        .filter(tx.owns(requests::tenant_id))
        .filter(requests::create_time.lt(forgotten))
        .order(requests::create_time)
        .limit(CLEARED)
        .select((requests::actor, requests::request_id))
        .for_update()
        .skip_locked()
        .load::<(String, String)>(&mut tx.conn())
        .await?;
    for (actor, request_id) in ids {
        let old = requests::actor.eq(actor).and(requests::request_id.eq(request_id));
        diesel::delete(requests::table.filter(tx.owns(requests::tenant_id)).filter(old))
            .execute(&mut tx.conn())
            .await?;
    }
    Ok(())
}
