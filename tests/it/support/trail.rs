//! What the activity trail tells about a tenant, compared with the tenant's rows.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Tenant;
use crate::schema::lines;

/// The activities in their order, each as `[action, resource type, resource id, changes]`.
const TRAIL: &str = "SELECT json_build_array(action, resource_type, resource_id, changes)::text AS line FROM activities \
    WHERE tenant_id = '$tenant' ORDER BY transaction_id, ordinal";

/// Each row that the trail is about, as `[resource type, resource id, fields]`.
const ROWS: &str = "SELECT json_build_array(type, id, fields)::text AS line FROM (\
    SELECT 'account' AS type, account_id AS id, to_jsonb(t) - 'sort_key' AS fields, tenant_id FROM accounts AS t \
    UNION ALL SELECT 'account_type', account_type_id, to_jsonb(t) - 'name_key', tenant_id FROM account_types AS t \
    UNION ALL SELECT 'organization', organization_id, to_jsonb(t) - 'sort_key', tenant_id FROM organizations AS t \
    UNION ALL SELECT 'person', person_id, to_jsonb(t) - 'sort_key', tenant_id FROM people AS t \
    UNION ALL SELECT 'account_user', account_id || '/' || person_id, to_jsonb(t) - 'sort_key' - 'person_create_time', tenant_id \
        FROM account_users AS t \
    UNION ALL SELECT 'account_organization', account_id || '/' || organization_id, to_jsonb(t) - 'account_id', tenant_id \
        FROM account_organizations AS t \
    UNION ALL SELECT 'organization_member', organization_id || '/' || person_id, \
        to_jsonb(t) - 'sort_key' - 'person_create_time', tenant_id FROM organization_members AS t \
    UNION ALL SELECT 'contract', contract_id, to_jsonb(t) - 'sort_key' - 'stage' - 'last_date' - 'value_amount' - 'value_currency' \
        || jsonb_build_object('state', stage, 'effective_end_date', last_date, \
            'value', trim(to_char(value_amount, '9999999999990.00')) || ' ' || value_currency, \
            'submit_time', to_char(submit_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
            'approve_time', to_char(approve_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
            'cancel_time', to_char(cancel_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')), tenant_id FROM contracts AS t \
    UNION ALL SELECT 'delivery_setup', delivery_setup_id, to_jsonb(t), tenant_id FROM delivery_setups AS t \
    UNION ALL SELECT 'opportunity', opportunity_id, to_jsonb(t) - 'sort_key' - 'currency_code' \
        || jsonb_build_object('amount', regexp_replace(amount::text, '([.][0-9]{2}[0-9]*?)0+$', '\\1') || ' ' || currency_code, \
            'source_time', to_char(source_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')), tenant_id FROM opportunities AS t \
    UNION ALL SELECT 'subscription', subscription_id, to_jsonb(t) - 'currency_code' - 'interval_unit' - 'discount' - 'cancel_end_time' \
        || jsonb_build_object('unit_amount', regexp_replace(unit_amount::text, '([.][0-9]{2}[0-9]*?)0+$', '\\1') || ' ' || currency_code, \
            'interval', interval_unit, 'discount_percent', trim_scale(discount / 10000.0), \
            'start_time', to_char(start_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
            'trial_end_time', to_char(trial_end_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
            'stated_end_time', to_char(stated_end_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
            'end_time', to_char(end_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
            'source_time', to_char(source_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
            'cancel_time', to_char(cancel_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')), tenant_id FROM subscriptions AS t \
    UNION ALL SELECT 'order', order_id, to_jsonb(t) - 'currency_code' - 'has_purchaser' \
        || jsonb_build_object('amount', regexp_replace(amount::text, '([.][0-9]{2}[0-9]*?)0+$', '\\1') || ' ' || currency_code, \
            'order_time', to_char(order_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), 'cancel_time', to_char(cancel_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')), tenant_id FROM orders AS t \
    UNION ALL SELECT 'portfolio', portfolio_id, to_jsonb(t) - 'sort_key' - 'item_count' || coalesce( \
            (SELECT jsonb_build_object('items', jsonb_agg(code ORDER BY ordinal)) FROM portfolio_items AS i \
                WHERE (i.tenant_id, i.portfolio_id) = (t.tenant_id, t.portfolio_id) HAVING count(*) > 0), '{}') || coalesce( \
            (SELECT jsonb_object_agg('items[' || code || '].' || field, value) FROM portfolio_items AS i \
                CROSS JOIN LATERAL jsonb_each(jsonb_build_object('display_name', i.display_name, 'description', i.description, 'state', i.state)) \
                    AS x (field, value) WHERE (i.tenant_id, i.portfolio_id) = (t.tenant_id, t.portfolio_id)), '{}'), \
        tenant_id FROM portfolios AS t \
    UNION ALL SELECT 'module_activation', module || '/' || organization_id, to_jsonb(t) - 'activation_id', tenant_id \
        FROM module_activations AS t \
    UNION ALL SELECT 'module_activation', module, jsonb_build_object('module', module, 'active', false), tenant_id \
        FROM tenants CROSS JOIN unnest(modules_off) AS module \
    UNION ALL SELECT 'tenant_settings', tenant_id, to_jsonb(t) - 'modules_off' - 'modules_off_below' - 'activity_floor', \
        tenant_id FROM tenants AS t WHERE revision > 0) AS rows WHERE tenant_id = '$tenant'";

/// Columns that no activity has.
const UNTOLD: [&str; 6] =
    ["tenant_id", "revision", "create_time", "update_time", "incarnation", "folded"];

/// Fields by resource.
type Resources = BTreeMap<(String, String), BTreeMap<String, Value>>;

/// Whether a value is recorded: empty values are not.
fn is_set(value: &Value) -> bool {
    *value != json!(null) && *value != json!("") && *value != json!({})
}

struct Told {
    action: String,
    key: (String, String),
    changes: Vec<(String, Value, Value)>,
}

/// Rebuilds a tenant's resources from its trail alone, and compares them with the tables. The trail
/// must be of calls that were made one after another.
pub async fn replay(tenant: &Tenant) {
    let (trail, rows) =
        [TRAIL, ROWS].map(|sql| sql.replace("$tenant", &tenant.caller.tenant)).into();
    let trail = told(&lines(tenant, &trail).await);
    let mut resources = Resources::new();
    for Told { action, key, mut changes } in trail {
        let verb = action.rsplit_once('.').unwrap().1;
        assert!(
            is_implied(&key) || resources.contains_key(&key) == (verb != "created"),
            "{action} {}",
            key.1
        );
        if action == "person.deleted" {
            forget_purchaser(&mut resources, &key.1);
        }
        if action == "account.deleted" {
            remove_orders(&mut resources, &key.1, &mut changes);
        }
        let fields = resources.entry(key.clone()).or_default();
        for (field, before, after) in changes {
            let had = fields.remove(&field).unwrap_or_default();
            let as_told = had == before
                || !(is_set(&had) || is_set(&before))
                || (is_implied(&key) && !is_set(&had));
            assert!(as_told, "{action} {}: {field} was {had}, not {before}", key.1);
            if is_set(&after) {
                fields.insert(field, after);
            }
        }
        if verb == "deleted" {
            let left = resources.remove(&key).unwrap();
            assert!(left.is_empty(), "{action} {}: its last snapshot lacks {left:?}", key.1);
        }
        imply_own_link(&mut resources, verb, &key);
    }
    compare(resources, &lines(tenant, &rows).await);
}

/// Orders lose the name of a purchaser who is deleted, without an activity of theirs.
fn forget_purchaser(resources: &mut Resources, person_id: &str) {
    let orders = resources.iter_mut().filter(|((kind, _), _)| kind == "order");
    for (_, fields) in orders {
        if fields.get("purchaser_id").is_some_and(|purchaser| purchaser == person_id) {
            fields.remove("purchaser_id");
        }
    }
}

/// The deletion of an account says in one field how many orders went along. Each could have been an
/// activity of its own.
fn remove_orders(
    resources: &mut Resources,
    account_id: &str,
    changes: &mut Vec<(String, Value, Value)>,
) {
    let told = changes.iter().position(|(field, ..)| field == "orders");
    let told = told.map_or(json!({}), |place| changes.remove(place).1);
    let (mut recorded, mut cancelled) = (0, 0);
    resources.retain(|(kind, _), fields| {
        let goes = kind == "order" && fields["account_id"] == account_id;
        if goes && fields["state"] == "RECORDED" {
            recorded += 1;
        } else if goes {
            cancelled += 1;
        }
        !goes
    });
    let count = |name: &str| told[name].as_i64().unwrap_or_default();
    assert_eq!((count("count"), count("cancelled")), (recorded, cancelled), "{told}");
}

/// The settings and modules of the tenant, which are there from the beginning.
fn is_implied(key: &(String, String)) -> bool {
    key.0 == "tenant_settings" || (key.0 == "module_activation" && !key.1.contains('/'))
}

/// A new account is linked to its organization.
fn imply_own_link(resources: &mut Resources, verb: &str, key: &(String, String)) {
    if verb == "created" && key.0 == "account" {
        let organization_id = resources[key]["organization_id"].clone();
        let link = format!("{}/{}", key.1, organization_id.as_str().unwrap());
        let fields = [
            ("organization_id", organization_id),
            ("own", json!(true)),
            ("include_descendants", json!(false)),
        ];
        let fields = fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect();
        resources.insert(("account_organization".to_owned(), link), fields);
    }
}

fn told(lines: &[String]) -> Vec<Told> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let told = |line: &String| {
        let line: Value = serde_json::from_str(line).unwrap();
        let changes = line[3].as_array().unwrap().iter();
        let changes = changes
            .map(|it| (text(&it["field"]), it["before"].clone(), it["after"].clone()))
            .collect();
        Told { action: text(&line[0]), key: (text(&line[1]), text(&line[2])), changes }
    };
    lines.iter().map(told).collect()
}

#[track_caller]
fn compare(mut resources: Resources, rows: &[String]) {
    let mut kept = Resources::new();
    for row in rows {
        let row: Value = serde_json::from_str(row).unwrap();
        let fields = row[2].as_object().unwrap().iter();
        let fields =
            fields.filter(|(field, value)| is_set(value) && !UNTOLD.contains(&field.as_str()));
        let fields = fields.map(|(field, value)| (field.clone(), value.clone())).collect();
        kept.insert(
            (row[0].as_str().unwrap().to_owned(), row[1].as_str().unwrap().to_owned()),
            fields,
        );
    }
    // A module of a tenant without an activation is on.
    resources
        .retain(|key, fields| !(is_implied(key) && fields.get("active") == Some(&json!(true))));
    // The trail has only those settings that were changed.
    for (key, fields) in &mut resources {
        if let Some(row) = kept.get(key).filter(|_| is_implied(key)) {
            for (field, value) in row {
                fields.entry(field.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    let keys = |all: &Resources| all.keys().cloned().collect::<BTreeSet<_>>();
    let (told, there) = (keys(&resources), keys(&kept));
    assert_eq!(
        told.difference(&there).collect::<Vec<_>>(),
        [] as [&(String, String); 0],
        "there by the trail only"
    );
    assert_eq!(
        there.difference(&told).collect::<Vec<_>>(),
        [] as [&(String, String); 0],
        "there, and not by the trail"
    );
    for (key, row) in kept {
        assert_eq!(resources[&key], row, "{key:?} by the trail, and as it is");
    }
}

/// Compares the trail of concurrent calls with the tables, both read over `sql`. Activities of
/// transactions that waited for each other may be listed in another order than they happened. So
/// each field is added up: every value is counted up when it is set and down when it is replaced,
/// and the one value left over is the current one.
pub async fn balance(sql: &tokio_postgres::Client, tenant: &Tenant) {
    let mut found = Vec::new();
    for query in [TRAIL, ROWS] {
        let rows = sql.query(&query.replace("$tenant", &tenant.caller.tenant), &[]).await.unwrap();
        found.push(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>());
    }
    let mut counts = BTreeMap::<_, BTreeMap<String, i64>>::new();
    for Told { action, key, changes } in told(&found[0]) {
        let own_link = (action == "account.created").then(|| {
            let organization =
                changes.iter().find(|(field, ..)| field == "organization_id").unwrap().2.clone();
            let link = (
                "account_organization".to_owned(),
                format!("{}/{}", key.1, organization.as_str().unwrap()),
            );
            let fields = [
                ("organization_id", organization),
                ("own", json!(true)),
                ("include_descendants", json!(false)),
            ];
            (link, fields.map(|(field, value)| (field.to_owned(), Value::Null, value)).to_vec())
        });
        for (key, changes) in [Some((key, changes)), own_link].into_iter().flatten() {
            for (field, before, after) in changes {
                let values = counts.entry((key.clone(), field)).or_default();
                for (value, count) in [(before, -1), (after, 1)] {
                    if is_set(&value) {
                        *values.entry(value.to_string()).or_default() += count;
                    }
                }
            }
        }
    }
    let mut resources = Resources::new();
    for ((key, field), values) in counts {
        let mut left = values.iter().filter(|(_, count)| **count != 0);
        let last = left.next();
        assert!(
            left.next().is_none() && last.is_none_or(|(_, count)| *count == 1),
            "{key:?}, {field}: {values:?}"
        );
        if let Some((value, _)) = last {
            resources.entry(key).or_default().insert(field, serde_json::from_str(value).unwrap());
        }
    }
    compare(resources, &found[1]);
}
