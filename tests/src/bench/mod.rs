//! Measurements that `cargo xtask bench` prints; what tests use of them are the counts.

pub mod exchange;
pub mod faults;
pub mod lookup;
pub mod lua;
pub mod scale;

use comfy_table::{CellAlignment, Table, presets};

/// A table as documents write them; all columns but the first hold figures.
#[must_use]
pub fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(head);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

pub fn print(title: &str, table: &Table) {
    println!("{title}\n\n{table}\n");
}
