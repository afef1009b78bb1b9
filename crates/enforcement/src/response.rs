//! An answer that the gateway gives by itself: status, content type, body, response code details, and a line for its
//! log. What is said when stands with each kind of enforcement. Pure.

use std::borrow::Cow;

use crate::steps::Count;

/// An answer instead of the model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Cow<'static, str>,
    /// Envoy's response code details.
    pub details: &'static str,
    /// Besides the content type.
    pub headers: Vec<(&'static str, String)>,
    /// What it adds up to.
    pub counts: &'static [Count],
    /// What is counted with it as upstream does.
    pub by_route: Option<ByRoute>,
    /// What the operator should read in the gateway's log; never sent.
    pub log: Option<String>,
}

/// A counter among the gateway's metrics, to which one is added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByRoute {
    pub(crate) metric: &'static str,
    pub(crate) consumer: Option<Vec<u8>>,
}

impl ByRoute {
    /// Its name, as upstream's modules name their counters, on this route and cluster.
    #[must_use]
    pub fn name(&self, route: Option<&[u8]>, cluster: Option<&[u8]>) -> String {
        let text = |text: Option<&[u8]>, none: &str| {
            text.map_or(none.into(), |text| String::from_utf8_lossy(text).into_owned())
        };
        let Self { metric, consumer } = self;
        let (route, cluster, consumer) = (text(route, "-"), text(cluster, "-"), text(consumer.as_deref(), "none"));
        format!("route.{route}.upstream.{cluster}.model.none.consumer.{consumer}.metric.{metric}")
    }
}

const TEXT: &str = "text/plain";

impl Response {
    pub(crate) const fn text(status: u16, details: &'static str, body: &'static str) -> Self {
        let counts: &[Count] = if status < 400 { &[] } else { &[Count::Refused] };
        Self {
            status,
            content_type: TEXT,
            body: Cow::Borrowed(body),
            details,
            headers: Vec::new(),
            counts,
            by_route: None,
            log: None,
        }
    }

    pub(crate) fn counting(self, counts: &'static [Count]) -> Self {
        Self { counts, ..self }
    }

    pub(crate) fn logged(self, log: impl std::fmt::Display) -> Self {
        Self { log: Some(log.to_string()), ..self }
    }
}
