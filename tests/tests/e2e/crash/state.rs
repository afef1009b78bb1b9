//! Everything a controller leaves behind, so that two runs can be compared: what differs between runs by nature (times,
//! uids, versions) is left out or replaced. Objects and Redis in, names with values out.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use enforcement::redis::Balance;
use kube::api::{Api, DynamicObject, ListParams};
use redis::aio::MultiplexedConnection;
use serde_json::{Map, Value, json};
use testbed::Redis;

/// `redis <key>` or `<kind> <name>` with what is there.
pub(super) type State = BTreeMap<String, Value>;

/// What is there now, but for the object `left_out`.
pub(super) async fn read(redis: &Redis, kinds: [&Api<DynamicObject>; 3], left_out: &str) -> Result<State> {
    let mut state = State::new();
    let mut names = BTreeMap::new();
    for kind in kinds {
        for object in kind.list(&ListParams::default()).await?.items {
            let kind = object.types.as_ref().map(|types| types.kind.clone()).unwrap_or_default();
            let name = object.metadata.name.clone().unwrap_or_default();
            if name == left_out {
                continue;
            }
            let name = format!("{kind} {name}");
            names.insert(object.metadata.uid.clone().unwrap_or_default(), name.clone());
            let leaves = json!({
                "labels": object.metadata.labels, "annotations": object.metadata.annotations,
                "finalizers": object.metadata.finalizers, "deleting": object.metadata.deletion_timestamp.is_some(),
                "spec": object.data["spec"], "status": lasting(object.data["status"].clone()),
            });
            state.insert(name, leaves);
        }
    }
    for database in [0, 1] {
        read_redis(redis, database, &names, &mut state).await?;
    }
    Ok(state)
}

/// The keys of a database; those of another than the first with its number.
async fn read_redis(redis: &Redis, database: usize, names: &BTreeMap<String, String>, state: &mut State) -> Result<()> {
    let mut redis = redis.connect().await?;
    redis::cmd("SELECT").arg(database).query_async::<()>(&mut redis).await?;
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await?;
    for key in keys {
        let mut value = value(&mut redis, &key).await?;
        // An object of a deleted name is another one in every run.
        if let Some(uid) = value.get_mut("uid")
            && let Some(name) = uid.as_str().and_then(|uid| names.get(uid))
        {
            *uid = json!(name);
        } else if let Some(uid) = value.get_mut("uid").filter(|uid| **uid != "") {
            *uid = json!("of an object that is gone");
        }
        // Every Redis has another.
        if key == b"aiquota:database" {
            value = json!("told from others");
        }
        let key = if database == 0 { key } else { [format!("{database}/").into_bytes(), key].concat() };
        state.insert(redis_name(&key), value);
    }
    Ok(())
}

async fn value(redis: &mut MultiplexedConnection, key: &[u8]) -> Result<Value> {
    let command = |name: &str| redis::cmd(name).arg(key).to_owned();
    let kind: String = command("TYPE").query_async(redis).await?;
    Ok(match kind.as_str() {
        "string" => json!(text(&command("GET").query_async::<Vec<u8>>(redis).await?)),
        "hash" => {
            let fields: BTreeMap<Vec<u8>, Vec<u8>> = command("HGETALL").query_async(redis).await?;
            fields.iter().map(|(field, value)| (text(field), json!(text(value)))).collect::<Map<_, _>>().into()
        }
        "set" => {
            let mut members: Vec<Vec<u8>> = command("SMEMBERS").query_async(redis).await?;
            members.sort();
            members.iter().map(|member| text(member)).collect()
        }
        other => bail!("{} is a {other}: nobody asked here", text(key)),
    })
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn redis_name(key: &[u8]) -> String {
    format!("redis {}", text(key))
}

/// A status without what depends on when it was written: times, and figures of balances, which are as old as the last
/// look at them.
fn lasting(mut status: Value) -> Value {
    if let Some(fields) = status.as_object_mut() {
        fields.remove("consumers");
        if let Some(summary) = fields.get_mut("summary").and_then(Value::as_object_mut) {
            summary.remove("exhausted");
        }
    }
    without_times(status)
}

fn without_times(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.remove("lastTransitionTime");
            fields.values_mut().for_each(|value| *value = without_times(value.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| *value = without_times(value.take())),
        _ => {}
    }
    value
}

/// Names what differs.
pub(super) fn compare(found: &State, expected: &State) -> Result<()> {
    let names: std::collections::BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let show = |value: Option<&Value>| value.map_or("nothing".to_owned(), ToString::to_string);
    let differs = names.into_iter().filter(|name| found.get(*name) != expected.get(*name));
    let lines: Vec<String> = differs
        .map(|name| format!("{name}:\n  is     {}\n  not    {}", show(found.get(name)), show(expected.get(name))))
        .collect();
    ensure!(lines.is_empty(), "{}", lines.join("\n"));
    Ok(())
}

/// What the state is when so much was spent besides, and booked.
pub(super) fn spend(state: &mut State, balance: &Balance, tokens: i64, booked: bool) -> Result<()> {
    if !booked {
        return Ok(());
    }
    let less = |value: &Value, by: i64| -> Result<Value> {
        let number: i64 = value.as_str().context("no text")?.parse()?;
        Ok(json!((number - by).to_string()))
    };
    let key = redis_name(balance.as_bytes());
    let has_balance = state.contains_key(&key);
    if let Some(value) = state.get_mut(&key) {
        *value = less(value, tokens)?;
    }
    if let Some(ledger) = state.get_mut(&redis_name(&balance.ledger())) {
        ledger["used"] = less(&ledger["used"], -tokens)?;
        if !has_balance && ledger.get("parked").is_some() {
            ledger["parked"] = less(&ledger["parked"], tokens)?;
        }
    }
    Ok(())
}
