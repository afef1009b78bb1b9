//! The parts a test or the demo puts together: real components (Kubernetes API server, etcd, Redis), the gateway
//! around wasmtime, a model server, and the built `aiquota` binary as its users run it.
//!
//! Everything started here ends with its handle, also when a test fails, and with the process, also when it is killed.
//! Ports are free ones on loopback, files lie in temporary folders; two tests never meet. Linux only.

mod api_server;
mod audit;
mod blackhole;
mod call;
mod components;
mod controller;
mod crds;
pub mod gateway;
mod kubectl;
mod model_server;
mod paths;
mod process;
mod proxy;
mod redis;
mod service_account;
mod wait;

pub use api_server::ApiServer;
pub use audit::{Asked, left};
pub use blackhole::Blackhole;
pub use call::{Call, OpenReply, Reply, get, post};
pub use components::{Component, cache_dir};
pub use controller::{Controller, ControllerOptions, built_module};
pub use gateway::{Gateway, GatewayOptions, Source};
pub use kubectl::{helm, kubectl, kubectl_with_input};
pub use model_server::{After, Answer, Gate, ModelServer, Received, Tokens};
pub use paths::{controller_binary, module, workspace};
pub use process::free_port;
pub use proxy::{ApiProxy, Held, Mode, Moment, Operation, Operations, Reached, RedisProxy, Replies};
pub use redis::{Redis, RedisOptions};
pub use service_account::{GATEWAY, ServiceAccount};
pub use wait::{eventually, eventually_within};
