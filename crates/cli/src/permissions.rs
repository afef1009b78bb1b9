//! `aiquota permissions`: what the controller must be allowed, as YAML on standard output: the rules of a ClusterRole
//! under `cluster`, those of a Role in the gateway's namespace under `gateway`. The chart's roles are made of it.

use std::io::Write;

use anyhow::Result;
use controller::permissions::{everywhere, in_gateway_namespace};
use serde_json::json;

pub(crate) fn print() -> Result<()> {
    let rules = json!({"cluster": everywhere(), "gateway": in_gateway_namespace()});
    Ok(std::io::stdout().lock().write_all(crate::crds::yaml(&rules)?.as_bytes())?)
}
