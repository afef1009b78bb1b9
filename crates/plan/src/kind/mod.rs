//! What the kinds of objects that limit traffic have each for itself: what they declare, what their module reads, and
//! which names are their own. All else (merging, ceilings, trust, room, what is in force) is the same for all. Pure.

mod limit;
mod quota;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use api::{TargetRef, WasmPlugin};
use enforcement::wire;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Key, Object, ObjectKind, Reason, Refusal, Settings, World,
    form::{Form, Read},
    plan::Declared,
    program::Place,
};

pub(crate) use limit::{Limit, rule_name, rules};
pub(crate) use quota::Quota;

pub(crate) trait Kind: Sized + 'static {
    type Object;
    /// What its module is told.
    type Settings: Clone + PartialEq + Serialize + DeserializeOwned;

    const KIND: ObjectKind;
    /// Our WasmPlugin.
    const OURS: &'static str;
    /// What plugins that do the same are known by.
    const PLUGIN: &'static str;
    /// Whether its module asks requests for a consumer.
    const ASKS_IDENTITY: bool;
    /// What becomes of requests without consumer where it asks for one.
    const NOBODY: &'static str;
    /// What upstream's module does with requests that our own lets pass.
    const STRICTER: &'static str;

    /// Its module, and where that runs; nothing where there is none, so that nothing can be written.
    fn module(settings: &Settings) -> Option<Place<'_>>;

    /// Whether what is held to these settings depends on who the request says that it is of.
    fn believes(settings: &Self::Settings) -> bool;

    /// How its settings are written for a flavor's module.
    fn form(world: &World) -> &'static dyn Form<Self>;

    /// Its configuration as found, in whichever form that is.
    fn read(plugin: &WasmPlugin) -> Read<Self>;

    /// The `defaultConfig` of our own module, without what that says of itself.
    fn envelope(
        stores: BTreeMap<String, wire::Store>,
        schedules: BTreeMap<String, wire::Schedule>,
        policies: BTreeMap<String, Self::Settings>,
    ) -> Value;

    /// Whether the object is of this kind and can be read.
    fn of(object: &Object) -> Option<&Arc<Self::Object>>;

    /// All of this kind.
    fn objects(world: &World) -> Vec<Object>;

    fn validate(object: &Self::Object) -> Result<(), Vec<Refusal>>;

    fn targets(object: &Self::Object) -> &[TargetRef];

    fn allows_narrower(object: &Self::Object) -> bool;

    /// The name for what it keeps in Redis, if it chooses one, which only trusted namespaces may.
    fn chosen(object: &Self::Object) -> bool;

    /// The field of that name, and what choosing it is called.
    const CHOICE: (&'static str, &'static str);

    /// Why something that it reads besides its spec is not to be had. `found`: its policy in force, for which what was
    /// read before stays.
    fn sources(world: &World, object: &Self::Object, key: &Key, found: Option<&Self::Settings>) -> Option<Reason>;

    fn settings(world: &World, object: &Self::Object, key: &Key) -> Self::Settings;

    /// Where the object's own part in Redis is, if it has one. `store`: the index of its store.
    fn declared(settings: &Self::Settings, store: Option<usize>) -> Option<Declared>;

    fn store(settings: &Self::Settings) -> Option<&str>;

    fn store_mut(settings: &mut Self::Settings) -> Option<&mut String>;

    /// What is left of them when they are written for our module and read back. `usual`: the paths that are metered
    /// where nothing is said.
    fn said(settings: &Self::Settings, usual: impl Fn() -> Vec<String>) -> Cow<'_, Self::Settings>;

    /// Why requests are refused by them.
    fn unavailable(settings: &Self::Settings) -> Option<&str>;

    /// That they refuse, without a store.
    fn refusing(settings: Self::Settings, why: String) -> Self::Settings;

    /// For another object of the same settings.
    fn owned_by(settings: Self::Settings, owner: String) -> Self::Settings;

    /// Whether a rule that refuses does not say any more whom it stands for.
    fn is_nameless(settings: &Self::Settings) -> bool;

    /// Whether what they keep in Redis has a name that objects of this namespace do not get without choosing one.
    fn is_chosen(settings: &Self::Settings, namespace: &str) -> bool;

    /// How many sorts of balances it has, of each of which it is said where it yields to another.
    fn places(settings: &Self::Settings) -> usize;

    /// The consumers that it names, who therefore should come through.
    fn consumers<'a>(settings: &'a Self::Settings, object: &'a Object) -> Vec<&'a str>;

    /// The schedule they follow, and whose tables the module is given.
    fn refresh(settings: &Self::Settings) -> Option<&wire::Refresh>;

    /// The first field of the spec in which two differ, which therefore cannot share a target. The store comes last:
    /// where it is the only one, a policy whose store vanished may be the same.
    fn difference(a: &Self::Settings, b: &Self::Settings) -> Option<&'static str>;
}

/// The objects of a kind that cannot be read.
fn unread(world: &World, kind: ObjectKind) -> impl Iterator<Item = Object> {
    world.undecodable.iter().filter(move |unread| unread.kind == kind).cloned().map(Object::Undecodable)
}
