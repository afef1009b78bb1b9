//! `cargo xtask bench`: measures on this machine and prints the tables of docs/benchmarks.md. Figures are for reading:
//! nothing here passes or fails by them.

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use e2e::bench::{exchange, lookup, lua};
use testbed::{Redis, RedisOptions};

#[tokio::main]
async fn main() -> Result<()> {
    println!("machine: {}\n", machine());

    let mut table = table(["rules", "one lookup, ns"]);
    for (rules, nanoseconds) in lookup::run()? {
        table.add_row([rules.to_string(), format!("{nanoseconds:.0}")]);
    }
    print("A request's rule, native", &table);

    let mut table = self::table(["rules", "one exchange, µs"]);
    for (rules, microseconds) in exchange::run(&testbed::module("ai-quota")?)? {
        table.add_row([rules.to_string(), format!("{microseconds:.0}")]);
    }
    print("A metered answer of 50 chunks through the compiled module, check and charge included", &table);

    let redis = Redis::start(RedisOptions::default()).await?;
    let figures = lua::run(&mut redis.connect().await?).await?;
    let mut table = self::table(["operation", "per second"]);
    for (operation, per_second) in figures {
        table.add_row([operation.to_owned(), format!("{per_second:.0}")]);
    }
    print("Redis, one connection, pipelined by 500", &table);
    Ok(())
}

fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(head);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn print(title: &str, table: &Table) {
    println!("{title}\n\n{table}\n");
}

/// The processor's name and how many of them there are.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = name.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{}, {cores} cores", name.trim_start_matches([' ', '\t', ':']))
}
