//! Which modules the gateways run: what was written and what workers say of themselves in; whether each runs what it
//! should, and which gateways there are, out. A stale image, or a gateway that takes no configuration, cannot hide.
//! Pure: the clock is an argument.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use api::{GATEWAYS_SHOWN, GatewayConfiguration, GatewayStatus, MatchRule};
use enforcement::{redis::loaded::Said, wire};
use serde_json::Value;
use sha1_smol::Sha1;

use crate::{
    AI_QUOTA, AI_TOKEN_RATELIMIT, ObjectKind, Program, Write, Writes,
    conditions::{State, cut},
    form,
};

/// How long a gateway may take to run what was written.
const GRACE: Duration = Duration::from_secs(30);
/// Who says nothing for so long is not there any more: workers speak once a minute.
const SILENCE: Duration = Duration::from_secs(90);
/// How long nobody has to say anything before that is told.
const NOBODY: Duration = Duration::from_secs(180);
/// So many configurations are remembered; none is written more often than every 2 s.
const REMEMBERED: usize = 256;
/// Gateways named in a message.
const NAMED: usize = 5;

/// What the workers said in one database of each module, in the order of [`MODULES`].
pub type Words = [Vec<Said>; 2];

/// Our WasmPlugins whose modules say what they run, and the words of [`enforcement::steps::Kind::KIND`].
pub const MODULES: [(&str, &str); 2] = [(AI_QUOTA, "quota"), (AI_TOKEN_RATELIMIT, "limit")];

/// For whom modules say it.
pub(crate) fn whose(cluster: &str, gateway_namespace: &str) -> String {
    format!("{cluster}/{gateway_namespace}")
}

/// Lets who runs this configuration say so. The revision is made of all that is in it but itself.
pub(crate) fn stamp(default_config: &mut Value, rules: &[MatchRule], of: &str) {
    let mut hash = Sha1::new();
    for part in [default_config.to_string(), form::text(&rules)] {
        hash.update(part.as_bytes());
        hash.update(b"\n");
    }
    let mut revision = hash.digest().to_string();
    revision.truncate(16);
    let report = wire::Report { of: of.to_owned(), revision };
    if let Some(Value::Object(native)) = default_config.get_mut(wire::KEY) {
        native.insert("report".to_owned(), form::value(&report));
    }
}

/// What was written when, as far as this process knows. Times are since any one moment.
#[derive(Default)]
pub struct Rollouts(BTreeMap<&'static str, Rollout>);

/// Of one WasmPlugin.
struct Rollout {
    /// Url and checksum, and when they were written.
    image: (Option<String>, Option<String>),
    pulled: Duration,
    revision: String,
    since: Duration,
    /// The stores in which its workers say what they run.
    stores: BTreeSet<String>,
    /// What was written before, and when something else was.
    past: VecDeque<(String, Duration)>,
    /// Since when nobody has said anything, though it was looked for.
    nobody: Option<Duration>,
    /// What is said of it, for as long as that is the reason: each object has it in its status, and gateways come and go
    /// in it while they are rolled out.
    told: Option<(&'static str, String)>,
}

/// What there is to say of modules and gateways.
#[derive(Debug, Default)]
pub struct Loaded {
    runs: BTreeMap<&'static str, Runs>,
    /// By the index of the store.
    gateways: Vec<Option<Vec<GatewayStatus>>>,
    counts: Vec<Counts>,
}

/// How many gateways say in one store that they run a WasmPlugin, by its name and how: [`HOW`].
pub type Counts = BTreeMap<(&'static str, &'static str), i64>;

/// How a gateway runs one; of its workers the last of these counts.
pub const HOW: [&str; 3] = ["current", "stale_configuration", "stale_module"];

/// Of each module what was said, and how long ago.
type Heard<'a> = [Vec<(&'a Said, Duration)>; 2];

/// Whether the gateways run one module as they should.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Runs {
    /// What was said before holds until it is known.
    Open,
    All,
    Not(&'static str, String),
    Nobody(String),
}

/// What one worker runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Current,
    /// It may still take what was written.
    Late,
    StaleModule,
    StaleConfiguration,
}

impl Rollouts {
    /// Takes note of what the gateways are told now.
    pub fn written(&mut self, program: &Program, writes: &Writes, at: Duration) {
        for plugin in &program.plugins {
            let Some((name, _)) = MODULES.into_iter().find(|(name, _)| *name == plugin.name) else { continue };
            let revision = plugin.wanted.as_ref().and_then(|wanted| revision(wanted.spec.default_config.as_ref()?));
            let (Some(wanted), Some(revision)) = (&plugin.wanted, revision) else {
                self.0.remove(name);
                continue;
            };
            if writes.get(name) != Some(&Write::Done) {
                continue;
            }
            let image = (wanted.spec.url.clone(), wanted.spec.sha256.clone());
            let stores = wanted.spec.default_config.as_ref().map(stores).unwrap_or_default();
            match self.0.get_mut(name) {
                Some(rollout) => {
                    rollout.take(image, revision, at);
                    rollout.stores = stores;
                }
                None => {
                    let (past, nobody, told) = (VecDeque::new(), None, None);
                    let (pulled, since) = (at, at);
                    self.0.insert(name, Rollout { image, pulled, revision, since, stores, past, nobody, told });
                }
            }
        }
    }

    /// Compares. `words`: by the index of the store, its name, what was said there and how long ago that was read; nothing
    /// where it could not be.
    pub fn judge(&mut self, words: &[(String, Option<(Words, Duration)>)], at: Duration) -> Loaded {
        let mut loaded = Loaded::default();
        let heard: Vec<Option<Heard<'_>>> =
            words.iter().map(|(_, words)| words.as_ref().map(|(words, read)| heard(words, *read))).collect();
        for (module, (name, _)) in MODULES.into_iter().enumerate() {
            let Some(rollout) = self.0.get_mut(name) else { continue };
            // Who uses several stores says the same in each, and what it said last counts.
            let mut workers: BTreeMap<&str, (&Said, Duration)> = BTreeMap::new();
            for (said, age) in heard.iter().flatten().flat_map(|words| &words[module]) {
                let last = workers.entry(&said.worker).or_insert((said, *age));
                if age < &last.1 {
                    *last = (said, *age);
                }
            }
            // Silence says something only where all that it could be broken in can be read.
            let read = |store: &String| words.iter().any(|(name, words)| name == store && words.is_some());
            let is_read = rollout.stores.iter().all(read);
            let runs = rollout.judge(name, workers.into_values(), is_read, at);
            loaded.runs.insert(name, rollout.tell(runs));
        }
        loaded.gateways = heard.iter().map(|words| self.gateways(words.as_ref()?, at)).collect();
        loaded.counts =
            words.iter().zip(&heard).map(|((store, _), heard)| self.counts(store, heard.as_ref(), at)).collect();
        loaded
    }

    /// Nothing where the store could not be asked; with nobody where somebody should say something there.
    fn counts(&self, store: &str, heard: Option<&Heard<'_>>, at: Duration) -> Counts {
        let mut counts = Counts::new();
        for (said, (plugin, _)) in heard.into_iter().flatten().zip(MODULES) {
            let Some(rollout) = self.0.get(plugin) else { continue };
            if rollout.stores.contains(store) {
                counts.extend(HOW.map(|how| ((plugin, how), 0)));
            }
            let mut gateways: BTreeMap<&str, usize> = BTreeMap::new();
            for (said, age) in said {
                let how = match rollout.found(said, *age, at) {
                    Found::Current | Found::Late => 0,
                    Found::StaleConfiguration => 1,
                    Found::StaleModule => 2,
                };
                let worst = gateways.entry(&said.gateway).or_default();
                *worst = how.max(*worst);
            }
            for how in gateways.into_values() {
                *counts.entry((plugin, HOW[how])).or_default() += 1;
            }
        }
        counts
    }

    /// Who said something in one store; nothing while it is not known what they should say.
    fn gateways(&self, heard: &Heard<'_>, at: Duration) -> Option<Vec<GatewayStatus>> {
        if self.0.is_empty() {
            return None;
        }
        let mut gateways = BTreeSet::new();
        for (said, (plugin, _)) in heard.iter().zip(MODULES) {
            let Some(rollout) = self.0.get(plugin) else { continue };
            for (said, age) in said {
                let stale = rollout.found(said, *age, at) == Found::StaleConfiguration;
                gateways.insert((shown(&said.gateway), plugin, said.version.as_str(), stale));
            }
        }
        let status = |(name, plugin, version, stale): (String, &str, &str, bool)| GatewayStatus {
            name,
            plugin: plugin.to_owned(),
            version: version.to_owned(),
            configuration: if stale { GatewayConfiguration::Stale } else { GatewayConfiguration::Current },
        };
        Some(gateways.into_iter().take(GATEWAYS_SHOWN).map(status).collect())
    }
}

impl Rollout {
    /// The same words as long as the reason is the same.
    fn tell(&mut self, runs: Runs) -> Runs {
        match (runs, &self.told) {
            (Runs::Not(reason, _), Some((before, told))) if reason == *before => Runs::Not(reason, told.clone()),
            (Runs::Not(reason, message), _) => {
                self.told = Some((reason, message.clone()));
                Runs::Not(reason, message)
            }
            (Runs::Open, _) => Runs::Open,
            (runs, _) => {
                self.told = None;
                runs
            }
        }
    }

    fn take(&mut self, image: (Option<String>, Option<String>), revision: String, at: Duration) {
        if image != self.image {
            (self.image, self.pulled, self.told) = (image, at, None);
        }
        if revision != self.revision {
            let before = std::mem::replace(&mut self.revision, revision);
            self.since = at;
            self.past.retain(|(revision, _)| *revision != before && *revision != self.revision);
            self.past.push_back((before, at));
            if self.past.len() > REMEMBERED {
                self.past.pop_front();
            }
        }
    }

    fn judge<'a>(
        &mut self,
        name: &str,
        workers: impl Iterator<Item = (&'a Said, Duration)>,
        is_read: bool,
        at: Duration,
    ) -> Runs {
        let (mut stale, mut late, mut any) = (Vec::new(), false, false);
        for (said, age) in workers {
            any = true;
            match self.found(said, age, at) {
                Found::Current => {}
                Found::Late => late = true,
                found => stale.push((found, said)),
            }
        }
        if any || !is_read {
            self.nobody = None;
        }
        if !any {
            if !is_read {
                return Runs::Open;
            }
            let since = (*self.nobody.get_or_insert(at)).max(self.since);
            return if at.saturating_sub(since) > NOBODY { Runs::Nobody(nobody(name)) } else { Runs::Open };
        }
        // Another module explains whatever else is wrong.
        let of = |wanted: Found| stale.iter().filter(move |(found, _)| *found == wanted).map(|(_, said)| *said);
        if of(Found::StaleModule).next().is_some() {
            let declared = declared(self.image.0.as_deref().unwrap_or_default()).unwrap_or_default();
            let others =
                listed(of(Found::StaleModule).map(|said| format!("{} runs {}", shown(&said.gateway), said.version)));
            return Runs::Not(
                "StaleModule",
                cut(format!(
                    "WasmPlugin {name} declares module version {declared}, but {others}: an image that was loaded before \
                     under the same name is used again; give the image a tag of its own and its sha256, or pull it always"
                )),
            );
        }
        if of(Found::StaleConfiguration).next().is_some() {
            let others = listed(of(Found::StaleConfiguration).map(|said| shown(&said.gateway)));
            return Runs::Not(
                "StaleConfiguration",
                cut(format!(
                    "an older configuration of WasmPlugin {name} is in force in {others}: see its log, and that of \
                     Higress' controller, for why the current one is not taken"
                )),
            );
        }
        if late { Runs::Open } else { Runs::All }
    }

    /// Said `age` ago, at the time `at`.
    fn found(&self, said: &Said, age: Duration, at: Duration) -> Found {
        let when = at.saturating_sub(age);
        let judge = |since: Duration, stale| if when > since + GRACE { stale } else { Found::Late };
        let declared = self.image.0.as_deref().and_then(declared);
        if declared.is_some_and(|declared| declared != said.version) {
            return judge(self.pulled, Found::StaleModule);
        }
        if said.revision == self.revision {
            return Found::Current;
        }
        let replaced = self.past.iter().find(|(revision, _)| *revision == said.revision);
        // What this process never wrote was replaced before.
        let first = || self.past.front().map_or(self.since, |(_, at)| *at);
        judge(replaced.map_or_else(first, |(_, at)| *at), Found::StaleConfiguration)
    }
}

impl Loaded {
    /// What the condition of an object says; nothing: no module says anything. `Err`: what it said before.
    pub(crate) fn state(&self, kind: ObjectKind) -> Option<Result<State, ()>> {
        let name = match kind {
            ObjectKind::AiQuota => AI_QUOTA,
            ObjectKind::AiTokenRateLimit => AI_TOKEN_RATELIMIT,
        };
        Some(match self.runs.get(name)? {
            Runs::Open => Err(()),
            Runs::All => Ok(State::Is),
            Runs::Not(reason, message) => Ok(State::Not(reason, message.clone())),
            Runs::Nobody(message) => Ok(State::Unknown("NotLoaded", message.clone())),
        })
    }

    /// By the index of the store.
    #[must_use]
    pub fn counts(&self) -> &[Counts] {
        &self.counts
    }

    /// Who said something in the store; nothing where it could not be asked.
    #[must_use]
    pub fn gateways(&self, store: usize) -> Option<&[GatewayStatus]> {
        self.gateways.get(store)?.as_deref()
    }
}

/// What those say who are still there, and how long ago they did.
fn heard(words: &Words, read: Duration) -> Heard<'_> {
    words.each_ref().map(|said| {
        let aged = said.iter().map(|said| (said, Duration::from_secs(said.age).saturating_add(read)));
        aged.filter(|(_, age)| *age < SILENCE).collect()
    })
}

fn revision(default_config: &Value) -> Option<String> {
    let native = default_config.get(wire::KEY)?;
    // Without a store nothing can be said.
    native.get("stores")?;
    native.get("report")?.get("revision")?.as_str().map(str::to_owned)
}

/// The names of the stores in a configuration.
fn stores(default_config: &Value) -> BTreeSet<String> {
    let stores = default_config.get(wire::KEY).and_then(|native| native.get("stores")?.as_object());
    stores.into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

/// The version that a url names: the tag of an image, or what stands in a path, such as `1.2.3` or `1.2.3-rc.1`. Nothing
/// where there is none, or only a digest, which no gateway takes for another.
fn declared(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    if scheme == "oci" {
        let image = rest.split('@').next().unwrap_or(rest);
        let tag = image.rsplit('/').next()?.split_once(':')?.1;
        let version = tag.strip_prefix('v').unwrap_or(tag);
        return (versioned(version) == Some(version)).then_some(version);
    }
    let path = rest.split(['?', '#']).next().unwrap_or(rest);
    path.split('/').skip(1).find_map(|segment| {
        let segment = segment.strip_suffix(".wasm").unwrap_or(segment);
        let mut starts = segment
            .char_indices()
            .filter(|(at, _)| !segment[..*at].ends_with(|c: char| c.is_ascii_digit() || c == '.'))
            .map(|(at, _)| at);
        starts.find_map(|at| versioned(&segment[at..]))
    })
}

/// The text, if it begins with three numbers; with whatever follows behind `-` or `+`.
fn versioned(text: &str) -> Option<&str> {
    let numbers = text.split(['-', '+']).next().unwrap_or(text);
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (numbers.split('.').count() == 3 && numbers.split('.').all(is_number)).then_some(text)
}

/// A gateway as its users know it: Higress calls it `router~<address>~<pod>.<namespace>~<domain>`.
fn shown(gateway: &str) -> String {
    let name = gateway.split('~').nth(2).unwrap_or(gateway);
    if name.is_empty() { "unnamed".to_owned() } else { name.to_owned() }
}

/// Some of them, each once.
fn listed(names: impl Iterator<Item = String>) -> String {
    let mut all: Vec<String> = names.collect();
    all.sort_unstable();
    all.dedup();
    let more = all.len().saturating_sub(NAMED);
    all.truncate(NAMED);
    let named = all.join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

fn nobody(name: &str) -> String {
    format!(
        "no gateway says that it runs WasmPlugin {name}: see the gateway's log for an image that cannot be pulled or a \
         module that does not start; a gateway that does not know the store's service (global.onlyPushRouteCluster=true \
         and no route uses it), or may not write there, says nothing either, and nor does a module of another make"
    )
}

#[cfg(test)]
mod tests;
