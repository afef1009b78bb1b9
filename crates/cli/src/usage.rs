//! `aiquota usage`: what consumers were granted, spent and have left, from the statuses of AIQuotas. I/O: asks the API
//! server, and nothing else: no credentials of Redis are needed.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use api::{AiQuota, ConsumerStatus};
use clap::{Args, ValueEnum};
use kube::api::ListParams;
use kube::{Api, Client};
use plan::Key;
use serde::Serialize;

use crate::tell::{self, Style};

/// Show what consumers have left: granted, used, left, and when the next period begins
///
/// The figures are those of the objects' statuses, which the controller brings up to date about once a minute; of one
/// AIQuota they have the 100 consumers with the least left. Only the API server is asked.
///
/// Exits with 0, or with 1 where there is no AIQuota of a name that was given.
#[derive(Args, Debug)]
pub(crate) struct Usage {
    /// AIQuotas by name; all unless given
    #[arg(value_name = "AIQUOTA")]
    names: Vec<String>,

    /// Only this namespace; all unless given
    #[arg(short, long, value_name = "NAMESPACE", value_parser = crate::settings::namespace)]
    namespace: Option<String>,

    /// Only this consumer; repeatable
    #[arg(short, long = "consumer", value_name = "NAME")]
    consumers: Vec<String>,

    /// Show it again whenever it changes, until interrupted
    #[arg(short, long)]
    watch: bool,

    /// How it is written
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// A consumer of an AIQuota.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    object: String,
    #[serde(flatten)]
    consumer: ConsumerStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_refresh: Option<String>,
}

/// What is shown.
#[derive(Default, PartialEq, Eq)]
struct Shown {
    rows: Vec<Row>,
    /// Objects that do not work, or of which not all is shown.
    notes: Vec<String>,
    /// Names that no AIQuota has.
    unknown: Vec<String>,
}

/// How often is looked: the controller writes a status at most about once a minute.
const AGAIN: Duration = Duration::from_secs(5);

impl Usage {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
        runtime.block_on(self.show())
    }

    async fn show(self) -> Result<ExitCode> {
        let client = Client::try_default().await.context("no cluster: set KUBECONFIG")?;
        let api: Api<AiQuota> = match &self.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let mut before = None;
        loop {
            let quotas = api.list(&ListParams::default()).await.context("AIQuotas cannot be listed")?.items;
            let shown = self.chosen(&quotas);
            if before.as_ref() != Some(&shown) {
                self.write(&shown)?;
            }
            if !shown.unknown.is_empty() {
                let namespace = self.namespace.as_ref().map(|name| format!(" in namespace {name}")).unwrap_or_default();
                anyhow::bail!("there is no AIQuota {}{namespace}", shown.unknown.join(", "));
            }
            if !self.watch {
                return Ok(ExitCode::SUCCESS);
            }
            before = Some(shown);
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn chosen(&self, quotas: &[AiQuota]) -> Shown {
        let mut shown = Shown::default();
        let asked = |names: &[String], name: &str| names.is_empty() || names.iter().any(|asked| asked == name);
        let mut nowhere: Vec<&String> = self.consumers.iter().collect();
        for quota in quotas {
            let key = Key::of(&quota.metadata);
            if !asked(&self.names, &key.name) {
                continue;
            }
            let Some(status) = &quota.status else {
                shown.notes.push(format!("AIQuota {key} has no status yet: does the controller run?"));
                continue;
            };
            if let Some(ready) = status.conditions.iter().find(|condition| condition.type_ == "Ready")
                && ready.status != "True"
            {
                let Key { namespace, name } = &key;
                shown.notes.push(format!(
                    "AIQuota {key} is not ready ({}): kubectl describe aiquota {name} -n {namespace}",
                    ready.reason
                ));
            }
            let of_models = quota.spec.models.iter().flat_map(|model| model.consumers.iter().flatten());
            let names: Vec<&str> = quota.spec.consumers.iter().chain(of_models).map(|one| one.name.as_str()).collect();
            let listed = names.len();
            if listed > status.consumers.len() && self.consumers.is_empty() {
                let some = status.consumers.len();
                shown.notes.push(format!("AIQuota {key}: {some} of {listed} consumers, those with the least left"));
            }
            let of = |consumer: &ConsumerStatus| Row {
                namespace: key.namespace.clone(),
                object: key.name.clone(),
                consumer: consumer.clone(),
                next_refresh: status.next_refresh.clone(),
            };
            let chosen = status.consumers.iter().filter(|consumer| asked(&self.consumers, &consumer.name));
            shown.rows.extend(chosen.map(of));
            for name in self.consumers.iter().filter(|name| names.contains(&name.as_str())) {
                if !status.consumers.iter().any(|consumer| consumer.name == *name) {
                    let some = status.consumers.len();
                    shown
                        .notes
                        .push(format!("AIQuota {key}: consumer {name} is not among the {some} with the least left"));
                }
            }
            nowhere.retain(|name| !names.contains(&name.as_str()));
        }
        // Who is not listed may be shown all the same.
        nowhere.retain(|name| !shown.rows.iter().any(|row| row.consumer.name == **name));
        shown.notes.extend(nowhere.iter().map(|name| format!("no AIQuota here lists consumer {name}")));
        let known: HashSet<String> = quotas.iter().filter_map(|quota| quota.metadata.name.clone()).collect();
        shown.unknown = self.names.iter().filter(|name| !known.contains(*name)).cloned().collect();
        let order = |row: &Row| (row.namespace.clone(), row.object.clone());
        shown.rows.sort_by_key(order);
        shown
    }

    fn write(&self, shown: &Shown) -> Result<()> {
        let terminal = std::io::stdout().is_terminal();
        match self.output {
            Output::Json if self.watch => tell::print(&format!("{}\n", serde_json::to_string(&shown.rows)?)),
            Output::Json => tell::print(&format!("{}\n", serde_json::to_string_pretty(&shown.rows)?)),
            Output::Table => {
                let clear = if self.watch && terminal { "\u{1b}[2J\u{1b}[H" } else { "" };
                tell::print(&format!("{clear}{}", table(&shown.rows, &Style::stdout())))
            }
        }?;
        shown.notes.iter().for_each(|note| tell::note(note));
        Ok(())
    }
}

fn table(rows: &[Row], style: &Style) -> String {
    if rows.is_empty() {
        return "no consumers\n".to_owned();
    }
    // Only who declares models has to know of them.
    let with_models = rows.iter().any(|row| row.consumer.model.is_some());
    let cells = rows.iter().map(|row| {
        let Row { namespace, object, consumer, next_refresh } = row;
        let number = |number: Option<i64>| number.map_or_else(|| "unlimited".to_owned(), |number| number.to_string());
        let mut cells = vec![namespace.clone(), object.clone(), consumer.name.clone()];
        cells.extend(with_models.then(|| consumer.model.clone().unwrap_or_else(|| "-".to_owned())));
        cells.extend([
            number(consumer.quota),
            consumer.used.to_string(),
            number(consumer.balance),
            part(consumer).map_or_else(String::new, bar),
            next_refresh.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
        cells
    });
    let (mut headings, numbers) = (vec!["NAMESPACE", "AIQUOTA", "CONSUMER"], 3 + usize::from(with_models));
    headings.extend(with_models.then_some("MODEL"));
    headings.extend(["GRANTED", "USED", "LEFT", "", "NEXT REFRESH"]);
    let text = tell::table(&headings, &[numbers, numbers + 1, numbers + 2], cells.collect());
    let mut lines = text.lines();
    let mut told = format!("{}\n", lines.next().unwrap_or_default());
    for (line, row) in lines.zip(rows) {
        let line = match part(&row.consumer) {
            Some(..=0) => style.bad(line),
            Some(1..=1) => style.poor(line),
            _ => line.to_owned(),
        };
        told.push_str(&line);
        told.push('\n');
    }
    told
}

/// What is left of the grant, in tenths, rounded up: only who has nothing left has none. Nothing without limit.
fn part(consumer: &ConsumerStatus) -> Option<i64> {
    let (quota, left) = (consumer.quota?, consumer.balance?);
    if left <= 0 {
        return Some(0);
    }
    // What an administrator or a period before left may be more than the grant.
    let tenths = left.saturating_mul(10).checked_add(quota - 1)?.checked_div(quota)?;
    Some(tenths.clamp(1, 10))
}

fn bar(tenths: i64) -> String {
    let full = usize::try_from(tenths).unwrap_or(0).min(10);
    format!("[{}{}]", "#".repeat(full), ".".repeat(10 - full))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quotas() -> Vec<AiQuota> {
        let consumer = |name: &str, quota: i64, balance: i64, used: i64| json!({"name": name, "quota": quota, "balance": balance, "used": used});
        let quota = |namespace: &str, name: &str, status: serde_json::Value| {
            json!({
                "apiVersion": "quota.higress.io/v1alpha1", "kind": "AIQuota",
                "metadata": {"namespace": namespace, "name": name},
                "spec": {"targetRefs": [{"kind": "Gateway"}], "consumers": [{"name": "a", "quota": 1}, {"name": "b", "quota": 2}]},
                "status": status,
            })
        };
        let ready = |status: &str| {
            json!([{"type": "Ready", "status": status, "reason": "StoreUnreachable", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}])
        };
        let all = json!([
            quota(
                "team",
                "chat",
                json!({
                    "conditions": ready("True"), "nextRefresh": "2026-02-01T00:00:00Z",
                    "consumers": [consumer("a", 100, -3, 103), consumer("b", 100, 9, 91)],
                })
            ),
            quota(
                "platform",
                "all",
                json!({
                    "conditions": ready("False"),
                    "consumers": [{"name": "free", "used": 7}],
                })
            ),
            quota("team", "new", json!(null)),
        ]);
        serde_json::from_value(all).unwrap()
    }

    fn usage(consumers: &[&str]) -> Usage {
        Usage {
            names: Vec::new(),
            namespace: None,
            consumers: consumers.iter().map(|&name| name.to_owned()).collect(),
            watch: false,
            output: Output::Table,
        }
    }

    #[test]
    fn what_is_left_is_shown_by_object_with_a_bar() {
        let shown = usage(&[]).chosen(&quotas());
        let style = Style::plain();
        assert_eq!(
            table(&shown.rows, &style),
            "\
NAMESPACE   AIQUOTA   CONSUMER     GRANTED   USED        LEFT                  NEXT REFRESH
platform    all       free       unlimited      7   unlimited                  -
team        chat      a                100    103          -3   [..........]   2026-02-01T00:00:00Z
team        chat      b                100     91           9   [#.........]   2026-02-01T00:00:00Z
"
        );
    }

    #[test]
    fn objects_that_do_not_work_and_consumers_that_are_not_shown_are_told() {
        let notes = usage(&[]).chosen(&quotas()).notes;
        assert_eq!(
            notes,
            [
                "AIQuota platform/all is not ready (StoreUnreachable): kubectl describe aiquota all -n platform",
                "AIQuota platform/all: 1 of 2 consumers, those with the least left",
                "AIQuota team/new has no status yet: does the controller run?",
            ]
        );
    }

    #[test]
    fn a_balance_of_a_model_is_told_from_the_common_one_and_counted() {
        let mut quotas = quotas();
        quotas.truncate(1);
        let model = json!({"name": "gpt-4*", "consumers": [{"name": "a", "quota": 10}]});
        quotas[0].spec.models = serde_json::from_value(json!([model])).unwrap();
        let notes = |quotas: &[AiQuota]| usage(&[]).chosen(quotas).notes;
        assert_eq!(notes(&quotas), ["AIQuota team/chat: 2 of 3 consumers, those with the least left"]);
        let own = json!({"name": "a", "model": "gpt-4*", "quota": 10, "balance": 5, "used": 5});
        quotas[0].status.as_mut().unwrap().consumers.push(serde_json::from_value(own).unwrap());
        assert_eq!(notes(&quotas), Vec::<String>::new());
        assert_eq!(
            table(&usage(&[]).chosen(&quotas).rows, &Style::plain()),
            "\
NAMESPACE   AIQUOTA   CONSUMER   MODEL    GRANTED   USED   LEFT                  NEXT REFRESH
team        chat      a          -            100    103     -3   [..........]   2026-02-01T00:00:00Z
team        chat      b          -            100     91      9   [#.........]   2026-02-01T00:00:00Z
team        chat      a          gpt-4*        10      5      5   [#####.....]   2026-02-01T00:00:00Z
"
        );
    }

    #[test]
    fn only_what_is_asked_for_is_shown_and_programs_get_the_numbers() {
        let rows = usage(&["b", "nobody"]).chosen(&quotas()).rows;
        assert_eq!(
            serde_json::to_value(rows).unwrap(),
            json!([{"namespace": "team", "object": "chat", "name": "b", "quota": 100, "balance": 9, "used": 91,
                    "nextRefresh": "2026-02-01T00:00:00Z"}])
        );
    }

    #[test]
    fn who_is_asked_for_and_not_shown_is_told() {
        let mut quotas = quotas();
        quotas[0].spec.consumers.push(serde_json::from_value(json!({"name": "full", "quota": 5})).unwrap());
        let notes = |consumer: &str| usage(&[consumer]).chosen(&quotas[..1]).notes;
        assert_eq!(notes("a"), Vec::<String>::new());
        assert_eq!(notes("full"), ["AIQuota team/chat: consumer full is not among the 2 with the least left"]);
        assert_eq!(notes("nobody"), ["no AIQuota here lists consumer nobody"]);
    }

    #[test]
    fn a_name_that_no_object_has_is_unknown() {
        let asked = |names: &[&str]| {
            let names = names.iter().map(|&name| name.to_owned()).collect();
            Usage { names, ..usage(&[]) }.chosen(&quotas()).unknown
        };
        assert_eq!(asked(&["chat", "new"]), Vec::<String>::new());
        assert_eq!(asked(&["chat", "chta"]), ["chta"]);
    }

    #[test]
    fn the_bar_is_empty_for_those_only_who_have_nothing_left() {
        let left =
            |quota, balance| part(&ConsumerStatus { quota: Some(quota), balance: Some(balance), ..a_consumer() });
        for (quota, balance, tenths) in
            [(100, 0, 0), (100, 1, 1), (100, 99, 10), (100, 90, 9), (100, 91, 10), (100, 500, 10), (0, 5, 10)]
        {
            let expected = if quota == 0 { None } else { Some(tenths) };
            assert_eq!(left(quota, balance), expected, "{balance} of {quota}");
        }
        assert_eq!((bar(0), bar(3), bar(10)), ("[..........]".into(), "[###.......]".into(), "[##########]".into()));
    }

    fn a_consumer() -> ConsumerStatus {
        serde_json::from_value(json!({"name": "a", "used": 0})).unwrap()
    }
}
