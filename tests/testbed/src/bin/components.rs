//! Builds the components that tests and demo run on, unless they are there, and prints where they are.

use anyhow::Result;
use testbed::Component;

fn main() -> Result<()> {
    for component in Component::ALL {
        println!("{:<15} {}", component.name(), component.locate()?.display());
    }
    Ok(())
}
