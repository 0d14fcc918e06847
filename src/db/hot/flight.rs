//! A flight: the statements of several calls, and which call gets which rows.

use std::{sync::Arc, time::Duration};

use diesel::QueryResult;
use tokio::time::Instant;

use super::{
    super::{
        lane::{Lost, RawRow, Statement},
        pool::SETTINGS,
        tenant::TENANT,
    },
    Key,
};
use crate::caller::TenantId;

/// The SQL that comes before what is asked.
pub(super) struct Opening {
    /// Sets what holds for the whole flight.
    bounds: Arc<str>,
    /// Sets the tenant of the statements behind it.
    tenant: Arc<str>,
}

impl Opening {
    /// For flights in `role`, or in the role of the login if that is `None`.
    pub(super) fn of(role: Option<&str>) -> Self {
        let role = match role {
            Some(role) => format!("pg_catalog.set_config('role','{}',true),", quoted(role)),
            None => String::new(),
        };
        let set = |(name, value)| format!("pg_catalog.set_config('{name}','{value}',true),");
        let same = SETTINGS.map(set).concat();
        let bounds = format!(
            "SELECT {role}{same}pg_catalog.set_config('plan_cache_mode','force_generic_plan',true),\
             pg_catalog.set_config('statement_timeout',$1,true)"
        );
        let tenant = "SELECT pg_catalog.set_config('app.tenant_id',$1,true)".into();
        Self { bounds: bounds.into(), tenant }
    }
}

/// A question whatever its rows are.
pub(super) trait Ask: Sync {
    fn keys(&self) -> usize;
    fn ask(&self, tenant: &str, keys: &[Key]) -> QueryResult<Statement>;
}

/// What one call asks.
pub(super) struct Asked {
    pub(super) tenant: TenantId,
    pub(super) question: &'static dyn Ask,
    pub(super) key: Key,
    pub(super) deadline: Instant,
}

/// The rows for one call: of its tenant, if it has a row, and of its question.
pub(super) struct Answer {
    pub(super) tenant: Option<RawRow>,
    pub(super) rows: Vec<RawRow>,
}

/// Where the answer of a call is among the answers of a flight: the tenant row's and its own.
#[derive(Clone, Copy)]
struct Seat {
    tenant: usize,
    question: usize,
}

/// The statements of a flight.
pub(super) struct Flight {
    pub(super) statements: Vec<Statement>,
    seats: Vec<Seat>,
}

impl Flight {
    /// The statements for these calls, those of a tenant one behind the other. This is the only
    /// place that writes a flight: it asks nothing before the tenant is set.
    pub(super) fn of(opening: &Opening, asked: &[&Asked]) -> QueryResult<Self> {
        let left = asked.iter().map(|call| call.deadline).max();
        let left = left.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        let left = left.as_millis().max(1).to_string();
        let mut statements = vec![Statement::of_texts(&opening.bounds, [&*left])];
        let mut seats = Vec::with_capacity(asked.len());
        for calls in asked.chunk_by(|one, other| one.tenant == other.tenant) {
            let tenant = calls.first().map_or("", |call| call.tenant.as_str());
            statements.push(Statement::of_texts(&opening.tenant, [tenant]));
            statements.push(TENANT.ask(tenant, &[])?);
            let (row, first) = (statements.len() - 1, statements.len());
            let mut asks: Vec<(&dyn Ask, Vec<Key>)> = Vec::new();
            for call in calls {
                let same = |(question, _): &(&dyn Ask, Vec<Key>)| {
                    std::ptr::addr_eq(*question, call.question)
                };
                let known = asks.iter().position(|it| same(it) && it.1.contains(&call.key));
                let unfilled = asks.iter().position(|it| same(it) && it.1.len() < it.0.keys());
                let index = known.or(unfilled).unwrap_or_else(|| {
                    asks.push((call.question, Vec::new()));
                    asks.len() - 1
                });
                if known.is_none() {
                    asks[index].1.push(call.key.clone());
                }
                seats.push(Seat { tenant: row, question: first + index });
            }
            for (question, keys) in asks {
                statements.push(question.ask(tenant, &keys)?);
            }
        }
        Ok(Self { statements, seats })
    }

    /// The answer for each call. Fails if a row is another tenant's.
    pub(super) fn answers(
        &self,
        asked: &[&Asked],
        rows: &[Vec<RawRow>],
    ) -> Result<Vec<Answer>, Lost> {
        let answer = |(call, seat): (&&Asked, &Seat)| {
            let tenant = call.tenant.as_str();
            let (row, rows) = (&rows[seat.tenant], &rows[seat.question]);
            if row.iter().chain(rows).any(|row| !row.begins_with([tenant])) {
                return Err(Lost::Foreign);
            }
            let key = || [tenant].into_iter().chain(call.key.iter().map(String::as_str));
            let rows = rows.iter().filter(|row| row.begins_with(key())).cloned().collect();
            Ok(Answer { tenant: row.first().cloned(), rows })
        };
        asked.iter().zip(&self.seats).map(answer).collect()
    }
}

/// A name in a literal.
fn quoted(name: &str) -> String {
    name.replace('\'', "''")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A question of a tenant.
    pub fn asked(tenant: &str, key: &str) -> Asked {
        Asked {
            tenant: TenantId::parse(tenant).unwrap(),
            question: &TENANT,
            key: vec![key.to_owned()],
            deadline: Instant::now(),
        }
    }

    #[test]
    fn a_row_of_another_tenant_answers_nobody() {
        let (one, other) = (asked("t1", "a"), asked("t1", "b"));
        let seats = vec![Seat { tenant: 0, question: 1 }; 2];
        let flight = Flight { statements: Vec::new(), seats };
        let row = |texts: &[&str]| RawRow::of_texts(texts);
        let answers = |rows: &[&[&str]], tenant: &[&[&str]]| {
            let of = |rows: &[&[&str]]| rows.iter().map(|texts| row(texts)).collect();
            let answers = flight.answers(&[&one, &other], &[of(tenant), of(rows)]);
            answers.map(|answers| answers.iter().map(|it| it.rows.len()).collect::<Vec<_>>())
        };
        let (a, b) = (&["t1", "a", "x"][..], &["t1", "b", "y"][..]);
        assert_eq!(answers(&[a, b, b], &[&["t1"]]).unwrap(), [1, 2]);
        assert_eq!(answers(&[b], &[]).unwrap(), [0, 1]);
        assert!(matches!(answers(&[a, &["t2", "b", "y"]], &[]), Err(Lost::Foreign)));
        assert!(matches!(answers(&[a, &["t1x", "b"]], &[]), Err(Lost::Foreign)));
        assert!(matches!(answers(&[a], &[&["t2"]]), Err(Lost::Foreign)));
        assert!(matches!(answers(&[a, &[]], &[]), Err(Lost::Foreign)));
    }
}
