//! Our objects, each by itself: documents in; those that can be taken at their word, and every problem of the others,
//! out. Pure.

use std::collections::{HashMap, HashSet};

use api::{AiQuota, AiQuotaStore, AiTokenRateLimit, GROUP};
use plan::{Refusal, Refused};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::schema::distance;
use super::{metadata, schema};
use crate::files::Document;
use crate::problem::{Level, Named, Problem, refused};

pub(crate) enum Taken {
    Quota(Box<AiQuota>),
    Limit(Box<AiTokenRateLimit>),
    Store(Box<AiQuotaStore>),
}

/// What the documents have of ours.
#[derive(Default)]
pub(crate) struct Objects {
    /// Those that are valid by themselves.
    pub(crate) taken: Vec<Taken>,
    pub(crate) problems: Vec<Problem>,
    /// Where each stands, also those that are not valid.
    pub(crate) places: HashMap<Named, Document>,
}

/// The kinds and how a valid one is read.
type Kinds = HashMap<String, Value>;

pub(crate) fn read(documents: &[Document]) -> Objects {
    let mut found = Objects::default();
    let kinds = kinds();
    for document in documents {
        // Another's kind may have the same name; a group that is nearly ours is a slip.
        let group = document.group();
        let slip = kinds.contains_key(&document.kind) && (group.is_empty() || distance(group, GROUP) <= 2);
        if group == GROUP || slip {
            found.take(document, &kinds);
        }
    }
    found
}

/// The schemas, by kind.
fn kinds() -> Kinds {
    let crds = api::crds().unwrap_or_default();
    let schema = |crd: &Value| {
        let kind = crd.pointer("/spec/names/kind")?.as_str()?.to_owned();
        Some((kind, crd.pointer("/spec/versions/0/schema/openAPIV3Schema")?.clone()))
    };
    crds.iter().filter_map(schema).collect()
}

impl Objects {
    fn take(&mut self, document: &Document, kinds: &Kinds) {
        let Document { kind, key, .. } = document;
        let named = Named::new(kind, key);
        let wrong = |field: &str, message: String, remedy: &str| {
            let problem = Problem::new(Level::Error, &document.place(field), "Unknown", message);
            problem.of(named.clone()).at(field).with(remedy)
        };
        let version = format!("{GROUP}/v1alpha1");
        let Some(schema) = kinds.get(kind) else {
            let mut kinds: Vec<&str> = kinds.keys().map(String::as_str).collect();
            kinds.sort_unstable();
            let message = format!("{GROUP} has no kind {kind}");
            self.problems.push(wrong("kind", message, &format!("it is one of {}", kinds.join(", "))));
            return;
        };
        if document.api_version != version {
            let message = format!("{} is no version of {kind} that this aiquota reads", document.api_version);
            self.problems.push(wrong("apiVersion", message, &format!("write {version}")));
            return;
        }
        if let Some(first) = self.places.get(&named).filter(|_| !key.name.is_empty()) {
            let place = first.place("metadata.name");
            let message =
                format!("is in {}:{} already: the one that is applied last would win", place.file, place.line);
            let problem = Problem::new(Level::Error, &document.place("metadata.name"), "Duplicate", message);
            self.problems.push(problem.of(named).with("keep one of the two"));
            return;
        }
        let before = self.problems.len();
        let mut refusals = Vec::new();
        let taken = match kind.as_str() {
            "AIQuota" => of(document, schema, plan::validate, &mut refusals).map(|quota| Taken::Quota(Box::new(quota))),
            "AITokenRateLimit" => {
                of(document, schema, plan::validate_limit, &mut refusals).map(|limit| Taken::Limit(Box::new(limit)))
            }
            _ => of(document, schema, plan::validate_store, &mut refusals).map(|store| Taken::Store(Box::new(store))),
        };
        for refusal in refusals {
            let (reason, remedy) = refused(&refusal);
            let problem = Problem::new(Level::Error, &document.place(&refusal.field), reason, refusal.message);
            self.problems.push(problem.of(named.clone()).at(refusal.field).with(remedy));
        }
        if self.problems.len() == before {
            self.taken.extend(taken);
        }
        self.places.insert(named, document.clone());
    }
}

/// One object, if it can be read in spite of what is refused: by the API server's schema, and by what the controller
/// takes for valid.
fn of<K: DeserializeOwned>(
    document: &Document,
    schema: &Value,
    validate: impl Fn(&K) -> Result<(), Vec<Refusal>>,
    refusals: &mut Vec<Refusal>,
) -> Option<K> {
    let metadata = metadata::check(&document.value, refusals);
    let of_metadata: HashSet<String> = refusals.iter().map(|refusal| refusal.field.clone()).collect();
    let mut checked = schema::check(schema, &document.value);
    let (mut rest, bounds) = (checked.rest.take(), std::mem::take(&mut checked.bounds));
    let gone: Vec<String> = checked.unreadable.iter().map(|refusal| refusal.field.clone()).collect();
    refusals.append(&mut checked.unreadable);
    rest["metadata"] = metadata;
    let object = match plan::decode::<K>(rest) {
        Ok(object) => object,
        Err(refusal) => {
            // What the schema said already need not be said in other words.
            if gone.is_empty() {
                refusals.push(refusal);
            }
            refusals.extend(bounds);
            return None;
        }
    };
    let mut said: Vec<Refusal> = validate(&object).err().unwrap_or_default();
    said.iter_mut().for_each(|refusal| refusal.field = checked.in_file(&refusal.field));
    let fields: HashSet<&str> = said.iter().map(|refusal| refusal.field.as_str()).collect();
    // The API server has bounds of its own only where the controller says nothing.
    refusals.extend(bounds.into_iter().filter(|bound| !fields.contains(bound.field.as_str())));
    // What is missing because it could not be read is not missing.
    let explained = |refusal: &Refusal| {
        matches!(refusal.reason, Refused::Required | Refused::Excluded)
            && gone.iter().any(|gone| gone.starts_with(refusal.field.as_str()))
    };
    let said = said.into_iter().filter(|refusal| !explained(refusal) && !of_metadata.contains(&refusal.field));
    refusals.extend(said);
    Some(object)
}
