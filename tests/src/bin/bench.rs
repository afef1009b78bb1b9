//! `cargo xtask bench`: measures on this machine and prints the tables of docs/benchmarks.md. Figures are for reading:
//! nothing here passes or fails by them.

use anyhow::Result;
use clap::Parser;
use e2e::bench::{exchange, faults, lookup, lua, print, scale, table};
use testbed::{Redis, RedisOptions};

#[derive(Parser)]
#[command(about = "Measures on this machine and prints tables")]
struct Arguments {
    /// Measure the control plane with many objects, on a real API server and Redis, instead of modules and scripts.
    #[arg(long)]
    scale: bool,
    /// Play what happens when the store fails under load, instead.
    #[arg(long, conflicts_with = "scale")]
    faults: bool,
    /// AIQuota objects, with 10 consumers each and ten on a route.
    #[arg(long, default_value_t = 10_000, requires = "scale")]
    objects: usize,
    /// Edits of each kind.
    #[arg(long, default_value_t = 50, requires = "scale")]
    edits: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { scale, faults, objects, edits } = Arguments::parse();
    println!("machine: {}\n", machine());
    match (scale, faults) {
        (true, _) => scale::run(objects, edits).await,
        (false, true) => faults::run().await,
        (false, false) => data_plane().await,
    }
}

async fn data_plane() -> Result<()> {
    let mut table = table(["rules", "one lookup among quotas, ns", "among limits, ns"]);
    for (rules, [quotas, limits]) in lookup::run()? {
        table.add_row([rules.to_string(), format!("{quotas:.0}"), format!("{limits:.0}")]);
    }
    print("A request's rule, native", &table);

    let mut table = e2e::bench::table(["rules", "one exchange, µs"]);
    for (rules, microseconds) in exchange::quotas(&testbed::module("ai-quota")?)? {
        table.add_row([rules.to_string(), format!("{microseconds:.0}")]);
    }
    print("A metered answer of 50 chunks through the compiled ai-quota, check and charge included", &table);

    let mut table = e2e::bench::table(["routes", "rules that match", "exact keys in each", "one exchange, µs"]);
    for ([routes, rules, keys], microseconds) in exchange::limits(&testbed::module("ai-token-ratelimit")?)? {
        table.add_row([routes.to_string(), rules.to_string(), keys.to_string(), format!("{microseconds:.0}")]);
    }
    print("The same through the compiled ai-token-ratelimit", &table);

    let redis = Redis::start(RedisOptions::default()).await?;
    let mut connection = redis.connect().await?;
    let mut figures = lua::run(&mut connection).await?;
    figures.extend(lua::limits(&mut connection).await?);
    let mut table = e2e::bench::table(["operation", "per second"]);
    for (operation, per_second) in figures {
        table.add_row([operation.to_owned(), format!("{per_second:.0}")]);
    }
    print("Redis, one connection, pipelined by 500", &table);

    let mut table = e2e::bench::table(["operation", "per second, 10 held", "per second, 5,000 held", "ratio"]);
    for (operation, [few, many]) in lua::holds(&mut connection).await? {
        table.add_row([operation.to_owned(), format!("{few:.0}"), format!("{many:.0}"), format!("{:.2}", few / many)]);
    }
    print("The same with tokens held for requests in flight", &table);
    Ok(())
}

/// The processor's name and how many of them there are.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = name.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{}, {cores} cores", name.trim_start_matches([' ', '\t', ':']))
}
